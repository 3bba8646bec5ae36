"""What a local broker does for ``brokerctl``: both roles behind one socket."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import assert_never

import trio

from broker import __version__
from broker.audit import schema
from broker.audit.store import Store
from broker.control import api
from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.names import SandboxName, take_lease_id, take_sandbox_name
from broker.session import journal
from broker.session.follow import Follower
from broker.session.foreign import take_foreign
from broker.session.guest import Guest
from broker.session.hops import Failure, Hop
from broker.session.host import HostRole, Tenancy
from broker.session.pumps import PumpKeeper
from broker.session.report import Reporter, lease_status
from broker.session.viewer import ViewerRole
from policy.loader import RecordSet
from policy.model import CidPeer, External, HybridPeer, MicroVM, Record, UnixPeer

_GRACE = 5.0
_SIGTERM = 15


@dataclass(frozen=True)
class Parts:
    """The running broker, as its control socket needs it."""

    host: HostRole
    viewer: ViewerRole
    pump: PumpKeeper
    store: Store
    log: journal.Journal
    records: Callable[[], RecordSet]
    reload: Callable[[], Awaitable[None]]
    """Reads the record files again."""
    report: Reporter
    shutdown: trio.Event


class LocalApi:
    """Implements ``control.api.BrokerApi``."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def version(self) -> api.Version:
        """Which broker this is."""
        return api.Version(version=__version__, role="local", pid=os.getpid())

    async def status(self) -> api.Status:
        """Everything for ``brokerctl status``."""
        return await self._parts.report.status()

    # -- running ---------------------------------------------------------------

    async def run(
        self,
        caller: api.Caller,
        request: api.RunRequest,
        emit: api.Emit[api.RunItem],
    ) -> api.RunItem:
        """Run a program; returns ``started``, or ``exited`` if asked to wait."""
        del caller
        await self._parts.reload()
        name = take_sandbox_name(request.record)
        running = self._running(name)
        record = self._record(running.lease.record if running else name)
        argv = request.argv or _own_command(record)
        follower = Follower(emit, record)
        guest, program = None, None
        for last in (False, True):
            guest = await self._start(running, record, follower)
            program = await guest.start_program(
                argv, request.env or {}, display=request.window is not False
            )
            if request.wait:
                follower.listen(program)
            try:
                await follower.follow(guest, program)
                break
            except UpstreamError as error:
                await self._hop_failed(guest, follower.failure)
                # A boot that hangs is known of emulated machines; one more
                # try, and everybody hears of it.
                failure = follower.failure
                hung = failure is not None and failure.hop is Hop.AGENT
                retry = hung and running is None and not last
                await self._give_up(guest, running, str(error))
                if not retry:
                    raise
                await follower.say("try once more", "begun", str(error))
        assert guest is not None
        assert program is not None
        if not request.wait:
            return api.RunItem(
                started=api.Started(sandbox=guest.lease.sandbox, program=program.number)
            )
        try:
            code = await follower.attend(program)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await guest.signal(program, _SIGTERM)
            raise
        return api.RunItem(
            exited=api.Exited(
                sandbox=guest.lease.sandbox, program=program.number, code=code
            )
        )

    async def _start(
        self, running: Tenancy | None, record: Record, follower: Follower
    ) -> Guest:
        if running is not None:
            lease = running.lease
        else:
            async with follower.step("start the machine"):
                lease = await self._parts.host.start(
                    SandboxName(record.name), progress=follower.tell
                )
        guest = self._parts.viewer.guest(lease.id)
        if guest is None:
            raise UpstreamError(f"{lease.sandbox} ended while it was started")
        return guest

    async def _hop_failed(self, guest: Guest, failure: Failure | None) -> None:
        if failure is not None:
            await self._parts.log.note(
                schema.WindowHopFailed(
                    **journal.of(guest.lease),
                    hop=failure.hop.name.lower(),
                    reason=failure.reason,
                )
            )

    async def _give_up(
        self, guest: Guest, running: Tenancy | None, reason: str
    ) -> None:
        """A disposable that was started for this, and came to nothing, goes."""
        record = self._parts.viewer.record(guest.lease.record)
        disposable = record is None or record.viewer.sandbox_class == "disposable"
        if running is None and disposable:
            await self._parts.viewer.power_off(
                guest.lease.id, reason=f"no window: {reason}", grace=1.0
            )

    def _running(self, name: SandboxName) -> Tenancy | None:
        """The running sandbox of exactly this name."""
        for tenancy in self._parts.host.tenancies():
            if tenancy.lease.sandbox == name and not tenancy.stopping:
                return tenancy
        return None

    def _record(self, name: SandboxName) -> Record:
        records = self._parts.records()
        if name in records.broken:
            problem = records.broken[name]
            raise RefusedError(
                f"the record '{name}' has an error: {problem.message}",
                where=problem.where,
                hint="'brokerctl policy check' shows it; mend the file",
            )
        record = records.records.get(name)
        if record is None:
            known = ", ".join(sorted(records.records)) or "none"
            raise api.NotFoundError(
                f"no sandbox and no record is named '{printable(name)}'",
                hint=f"records: {known}; a new one is a file NAME.toml in "
                "~/.config/vitrail/sandboxes.d ('brokerctl policy schema')",
            )
        return record

    # -- ending ---------------------------------------------------------------

    async def stop(
        self, caller: api.Caller, request: api.StopRequest
    ) -> api.StopAnswer:
        """End sandboxes; returns when they are gone."""
        grace = _GRACE if request.grace is None else max(0.0, request.grace)
        found = self._parts.host.tenancies()
        if request.sandbox is not None:
            name = take_sandbox_name(request.sandbox)
            found = [t for t in found if name in {t.lease.sandbox, t.lease.record}]
            if not found:
                raise api.NotFoundError(
                    f"no sandbox '{name}' runs",
                    hint="'brokerctl status' lists the running ones",
                )
        async with trio.open_nursery() as nursery:
            for tenancy in found:
                nursery.start_soon(
                    self._stop_one, tenancy.lease, grace, f"by process {caller.pid}"
                )
        return api.StopAnswer(stopped=[t.lease.sandbox for t in found])

    async def _stop_one(self, lease: Lease, grace: float, who: str) -> None:
        await self._parts.viewer.power_off(
            lease.id, reason=f"stopped on request {who}", grace=grace
        )

    async def stop_all(self) -> None:
        """End every sandbox before the broker itself ends."""
        async with trio.open_nursery() as nursery:
            for tenancy in self._parts.host.tenancies():
                nursery.start_soon(
                    self._stop_one, tenancy.lease, _GRACE, "(the broker ends)"
                )

    async def shutdown(self, caller: api.Caller) -> None:
        """Begin to end the broker; returns at once."""
        del caller
        self._parts.shutdown.set()

    # -- leases of others' machines ------------------------------------------------

    async def lease(
        self, caller: api.Caller, request: api.LeaseRequest
    ) -> api.LeaseItem:
        """Lease a foreign machine for as long as its leader lives."""
        del caller
        tenancy = await self._admit_foreign(request)
        return api.LeaseItem(lease=lease_status(tenancy))

    async def hold_lease(
        self,
        caller: api.Caller,
        request: api.LeaseRequest,
        emit: api.Emit[api.LeaseItem],
    ) -> api.LeaseItem:
        """Lease a foreign machine for as long as the caller stays."""
        del caller
        tenancy = await self._admit_foreign(request)
        try:
            await emit(api.LeaseItem(lease=lease_status(tenancy)))
            await tenancy.ended.wait()
        finally:
            if not tenancy.ended.is_set():
                with trio.CancelScope(shield=True):
                    await self._parts.host.release(
                        tenancy.lease.id, "its launcher let go of the lease"
                    )
        return api.LeaseItem(ended=tenancy.reason)

    async def _admit_foreign(self, request: api.LeaseRequest) -> Tenancy:
        await self._parts.reload()
        name = take_sandbox_name(request.record)
        record = self._record(name)
        if not isinstance(record.host.launch, External):
            raise RefusedError(
                f"'{name}' is started by Vitrail itself ('brokerctl run {name}')",
                where=record.where("launch.kind"),
                hint='a record for others\' launchers has [launch] kind = "external"',
            )
        try:
            check_peer(record, record.host.launch.peer, request)
            machine = take_foreign(
                hybrid=request.hybrid,
                cid=request.cid,
                unix=request.unix,
                leader=request.leader,
                connectors=request.connectors or [],
            )
        except VitrailError as error:
            peer = next(filter(None, (request.hybrid, request.unix)), "")
            await self._parts.log.refused(
                schema.LeaseRefused(
                    sandbox=name,
                    peer=printable(peer or f"cid {request.cid}"),
                    outcome="refused",
                    reason=str(error),
                )
            )
            raise
        names = {t.lease.sandbox for t in self._parts.host.tenancies()}
        sandbox = (
            take_sandbox_name(request.sandbox)
            if request.sandbox
            else sandbox_name(record, frozenset(names))
        )
        return await self._parts.host.admit(sandbox, name, machine)

    async def leases(self) -> api.LeaseListAnswer:
        """All live leases."""
        return api.LeaseListAnswer(
            leases=[lease_status(t) for t in self._parts.host.tenancies()]
        )

    async def release(
        self, caller: api.Caller, request: api.LeaseReleaseRequest
    ) -> None:
        """End a lease; a machine that is not ours lives on."""
        lease = take_lease_id(request.id)
        await self._parts.host.release(lease, f"released by process {caller.pid}")


def check_peer(
    record: Record, peer: HybridPeer | CidPeer | UnixPeer, request: api.LeaseRequest
) -> None:
    """Refuse a lease for another peer than the record's own.

    Who a sandbox is stands in its record; a launcher only says when.  Raises
    RefusedError.
    """
    known: tuple[str, str | int]
    match peer:
        case HybridPeer():
            known = ("hybrid", str(peer.path))
        case CidPeer():
            known = ("cid", peer.cid)
        case UnixPeer():
            known = ("unix", str(peer.path))
        case _:
            assert_never(peer)
    claims = {"hybrid": request.hybrid, "cid": request.cid, "unix": request.unix}
    asked = [claim for claim in claims.items() if claim[1] is not None]
    if asked != [known]:
        raise RefusedError(
            f"that is not the peer of '{record.name}'",
            where=record.where(f"peer.{known[0]}"),
            hint="give the [peer] that stands in the record, or mend the record",
        )


def sandbox_name(record: Record, taken: frozenset[SandboxName]) -> SandboxName:
    """The name of the next sandbox of a record: its own, or a fresh one.

    Raises RefusedError when all disposable names are in use.
    """
    if record.host.sandbox_class != "disposable":
        return SandboxName(record.name)
    stem = record.name[: 31 - len("-9999")]
    start = time.time_ns() // 1_000_000 % 9000
    for step in itertools.islice(itertools.count(), 9000):
        name = SandboxName(f"{stem}-{1000 + (start + step) % 9000}")
        if name not in taken:
            return name
    raise RefusedError(f"9000 sandboxes of '{record.name}' run already")


def _own_command(record: Record) -> list[str]:
    if isinstance(record.host.launch, MicroVM):
        return list(record.host.launch.command)
    raise RefusedError(
        f"'{record.name}' is started by others; its agent takes no programs from us"
    )
