"""Leases of machines that others start, on request of brokerctl, a hook, or the viewer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from broker.authority.audit import event_log
from broker.core.errors import RefusedError, VitrailError
from broker.core.escape import fit, printable
from broker.core.lease import Lease
from broker.core.limits import link as link_limits
from broker.core.names import (
    LeaseId,
    SandboxName,
    disposable_name,
    take_lease_id,
    take_sandbox_name,
)
from broker.core.parts.absent import needed
from broker.core.paths import Paths
from broker.host.foreign_leases import ForeignLeases
from broker.host.foreign_machine import take_foreign
from broker.host.host_status import lease_status
from broker.host.role import ActiveLease, HostRole
from broker.host_and_viewer.find_record import find_record
from broker.ipc.audit import schema
from broker.ipc.control import host_methods as methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.control.types import leases as api
from broker.ipc.control.types.base import Nothing
from broker.ipc.host_rows import (
    LEASE_ENDED,
    LeaseEnded,
    SandboxStarted,
    StartProgress,
    StartSandbox,
)
from broker.ipc.host_viewer import Machines
from broker.net.link_service.far_end import FarEnd
from broker.wire.exchange import ServedCall
from policy.records.model import (
    Record,
    RecordPeer,
    RecordSet,
    is_of_others,
)

if TYPE_CHECKING:
    from broker.host.launchers.libvirt.guests import LibvirtGuests

_PROGRESS_LINES = 16
"""Steps of a start that wait to be reported; more are dropped."""


_PEER_CHARS = 120


class Leasing:
    """Gives leases on request, holds them, and ends them."""

    def __init__(
        self,
        *,
        host: HostRole,
        log: event_log.EventLog,
        records: Callable[[], RecordSet],
        reload: Callable[[], Awaitable[None]],
        listen_vsock: Callable[[], Awaitable[bool]],
        paths: Paths,
    ) -> None:
        self._paths = paths
        self._guests: LibvirtGuests | None = None
        self.foreign = ForeignLeases(
            paths.runtime / "foreign", self._checked, listen_vsock
        )
        self._listen_vsock = listen_vsock
        self._host = host
        self._log = log
        self._records = records
        self._reload = reload

    @serves(methods.LEASE_ACQUIRE)
    async def lease(
        self, exchange: Exchange[api.LeaseItem], request: api.LeaseRequest
    ) -> api.LeaseItem:
        """Lease a foreign machine for as long as its leader lives, for brokerctl.

        With ``more``, for as long as the caller stays: the lease is an item then, and
        the answer is why it ended.
        """
        _check(exchange, request)
        if exchange.more:
            return await self._hold(exchange, request)
        active_lease = await self._admit_foreign(request)
        return api.LeaseItem(lease=lease_status(active_lease))

    async def _hold(
        self, exchange: Exchange[api.LeaseItem], request: api.LeaseRequest
    ) -> api.LeaseItem:
        """Keep a lease for a foreign machine until the caller disconnects."""
        active_lease = await self._admit_foreign(request, held=True)
        try:
            await exchange.emit(api.LeaseItem(lease=lease_status(active_lease)))
            await active_lease.ended.wait()
        finally:
            if not active_lease.ended.is_set():
                # Refused: it is about to end anyway.
                with trio.CancelScope(shield=True), suppress(RefusedError):
                    await self._host.release(
                        active_lease.lease.id, "its launcher released the lease"
                    )
        return api.LeaseItem(ended=active_lease.reason)

    def _checked(self, request: api.LeaseRequest) -> Record:
        """Return the record of a request whose peer is the one that the record names.

        Raises RefusedError.
        """
        record = find_record(self._records(), take_sandbox_name(request.record))
        launch = record.host.launch
        if not is_of_others(launch):
            raise RefusedError(
                f"cannot lease '{record.name}' on request: 'brokerctl run {record.name}' starts and leases it",
                where=record.where("launch.kind"),
                hint='to start it with another program, set kind = "external" in [launch] of the record',
            )
        check_peer(record, launch.peer, request, self._records())
        return record

    async def _admit_foreign(
        self, request: api.LeaseRequest, *, held: bool = False
    ) -> ActiveLease:
        """Check a lease request, hold the machine's processes, and announce the lease.

        Reads the records again; listens for connections of a machine with a CID.
        Without ``held`` the lease is also saved in a file, from which the next broker
        restores it (``ForeignLeases.save``).  ``held``: the caller's connection keeps the
        lease, so no file is written.  A refusal is logged.  Raises RefusedError.
        """
        await self._reload()
        name = take_sandbox_name(request.record)
        try:
            # Before the machine, whose pidfds would be leaked after an error.
            record = self._checked(request)
            sandbox = self._name(record, request)
            if request.cid is not None:
                await self._listen_vsock()
            machine = take_foreign(request)
        except VitrailError as error:
            peer = next(filter(None, (request.hybrid, request.unix)), "")
            await self._log.refused(
                schema.LeaseRefused(
                    sandbox=name,
                    peer=printable(peer or f"cid {request.cid}"),
                    outcome="refused",
                    reason=str(error),
                )
            )
            raise
        active = await self._host.admit(sandbox, name, machine)
        if not held:
            self.foreign.save(active, request, machine)
        return active

    def _name(self, record: Record, request: api.LeaseRequest) -> SandboxName:
        if request.sandbox:
            return asked_name(record, request.sandbox, self._records())
        names = {t.lease.sandbox for t in self._host.active_leases()}
        return sandbox_name(record, frozenset(names), self._records())

    @serves(methods.MACHINE_EVENT)
    async def machine_event(
        self,
        exchange: Exchange[api.MachineEventAnswer],
        request: api.MachineEventRequest,
    ) -> api.MachineEventAnswer:
        """Read the records again; handle an event of a machine, which its hook reports."""
        del exchange
        await self._reload()
        guests = None
        try:
            guests = self.guests()
            return await guests.event(request)
        except VitrailError as error:
            # A domain that starts without its lease shows nothing: the log has why.
            await self._log.refused(
                schema.LeaseRefused(
                    sandbox="" if guests is None else guests.sandbox_of(request),
                    peer=printable(f"domain {request.name}", _PEER_CHARS),
                    outcome="refused",
                    reason=str(error),
                )
            )
            raise

    async def end(self) -> None:
        """End the preparations for machines that have not started."""
        if self._guests is not None:
            await self._guests.end()

    def guests(self) -> LibvirtGuests:
        """Return the registry of libvirt's domains; creates it at the first call."""
        if self._guests is None:
            # Late: most hosts have none.
            with needed("leasing domains of libvirt"):
                from broker.host.launchers.libvirt.guests import LibvirtGuests

            self._guests = LibvirtGuests(
                paths=self._paths,
                host=self._host,
                records=self._records,
                listen_vsock=self._listen_vsock,
            )
        return self._guests

    @serves(methods.LEASE_RELEASE)
    async def release(
        self, exchange: Exchange[Nothing], request: api.LeaseReleaseRequest
    ) -> Nothing:
        """End a lease for brokerctl; a machine that another program started runs on."""
        lease = take_lease_id(request.id)
        await self._host.release(lease, f"released by process {exchange.caller.pid}")
        return Nothing()


def _check(exchange: Exchange[api.LeaseItem], request: api.LeaseRequest) -> None:
    """Check that a lease request names an end and exactly one peer.

    Raises RefusedError.
    """
    if not exchange.more and request.leader is None:
        raise RefusedError(
            "the request does not say when the lease ends",
            hint="set leader, the PID of a process; or call with 'more', and keep the connection open",
        )
    ways = (request.hybrid, request.cid, request.unix)
    if sum(way is not None for way in ways) != 1:
        raise RefusedError("the request must set exactly one of hybrid, cid and unix")


def check_peer(
    record: Record, peer: RecordPeer, request: api.LeaseRequest, records: RecordSet
) -> None:
    """Refuse a lease for another peer than the record names.

    The record defines the peer of a sandbox; a launcher only reports the start.
    Raises RefusedError.
    """
    if peer.leased:
        raise RefusedError(
            f"cannot lease '{record.name}' on request: it is leased {peer.leased}",
            where=record.where(f"peer.{peer.key}"),
            hint=peer.hint,
        )
    claims = {"hybrid": request.hybrid, "cid": request.cid, "unix": request.unix}
    asked = [(way, place) for way, place in claims.items() if place is not None]
    if len(asked) != 1 or not peer.is_at(*asked[0]):
        raise RefusedError(
            f"cannot lease '{record.name}': the request names another peer than [peer] in its record",
            where=record.where(f"peer.{peer.key}"),
            hint=f"request {peer.key} {peer.claim}, or correct the record",
        )
    for other in records.records.values() if peer.several else ():
        launch = other.host.launch
        # guard: a machine that a record names is not another record's
        if is_of_others(launch) and launch.peer.key != peer.key:
            if not launch.peer.is_at(*asked[0]):
                continue
            raise RefusedError(
                f"cannot lease '{record.name}': the record '{other.name}' names this machine",
                where=other.where(f"peer.{launch.peer.key}"),
                hint=f"lease it as '{other.name}'",
            )


def asked_name(record: Record, asked: str, records: RecordSet) -> SandboxName:
    """Return the sandbox name that a launcher asks for.

    Raises RefusedError for another record's: windows show the name, and the
    rules are about it.
    """
    name = take_sandbox_name(asked)
    if name != record.name and (name in records.records or name in records.broken):
        raise RefusedError(
            f"cannot use the name '{name}' for a sandbox of '{record.name}': another record has it",
            hint=f"use '{record.name}', or a name that no record has",
        )
    return name


def sandbox_name(
    record: Record, taken: frozenset[SandboxName], records: RecordSet
) -> SandboxName:
    """Return the name for a record's next sandbox: the record's, or a fresh one.

    A fresh one is not another record's: windows show it, and the rules are about it.
    Raises RefusedError when all disposable names are in use.
    """
    if record.host.sandbox_class != "disposable":
        return SandboxName(record.name)
    start = time.time_ns() // 1_000_000 % 9000
    for step in itertools.islice(itertools.count(), 9000):
        name = disposable_name(record.name, 1000 + (start + step) % 9000)
        # guard: a disposable gets no record's name
        if name not in taken and name not in {*records.records, *records.broken}:
            return name
    raise RefusedError(f"all 9000 names of sandboxes of '{record.name}' are in use")


async def start_for_viewer(
    exchange: ServedCall[SandboxStarted],
    host: Machines,
    request: StartSandbox,
    mistake: str = "",
) -> SandboxStarted:
    """Start a sandbox for the viewer, and report its progress.  Raises VitrailError.

    Within this host's own records: the viewer names one, and differences from it.
    ``mistake``: in the record's file, whose last good version is in force.
    """
    record = take_sandbox_name(request.record)
    put, lines = trio.open_memory_channel[str](_PROGRESS_LINES)

    def progress(text: str) -> None:
        with suppress(trio.WouldBlock):
            put.send_nowait(fit(text, link_limits.LINK_TEXT_CHARACTERS))

    if mistake:
        progress(f"the last good version of the host's record is in force: {mistake}")
    lease: Lease | VitrailError
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report, exchange, lines)
        with put:
            try:
                lease = await host.start(
                    record,
                    progress=progress,
                    changes=request.changes,
                    for_sandbox=request.for_sandbox,
                )
            except VitrailError as error:  # not in a nursery's group
                lease = error
    if isinstance(lease, VitrailError):
        raise lease
    return SandboxStarted(lease.id)


async def _report(
    exchange: ServedCall[SandboxStarted], lines: trio.MemoryReceiveChannel[str]
) -> None:
    """Send the steps of a start to the viewer until all are sent."""
    async for line in lines:
        # The start continues without a link: the viewer finds it running later.
        with suppress(VitrailError):
            await exchange.emit(StartProgress(line))


async def withdraw(viewer: FarEnd, lease: LeaseId, reason: str) -> None:
    """Tell the viewer that a lease has ended, if it was told of it."""
    if viewer.leases.get(lease) is not None:
        text = fit(reason, link_limits.LINK_TEXT_CHARACTERS)
        await viewer.call_unless_silent(LEASE_ENDED, LeaseEnded(lease, text))
