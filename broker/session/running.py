"""``brokerctl run``: a sandbox started where needed, and a program in it.

Written against the seam: the host may be in this process or at the other end
of the link.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from broker.audit import schema
from broker.control import api
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.names import SandboxName, take_sandbox_name
from broker.link.contract import Host
from broker.session import journal
from broker.session.follow import Follower
from broker.session.guest import Guest
from broker.session.hops import Failure, Hop
from broker.session.viewer import ViewerRole
from policy.loader import RecordSet
from policy.model import MicroVM, Record

_SIGTERM = 15


class Runner:
    """Runs programs for the control socket of a broker that has a viewer."""

    def __init__(
        self,
        *,
        host: Host,
        viewer: ViewerRole,
        log: journal.Journal,
        records: Callable[[], RecordSet],
        reload: Callable[[], Awaitable[None]],
        running: Callable[[SandboxName], Lease | None],
    ) -> None:
        self._host = host
        self._viewer = viewer
        self._log = log
        self._records = records
        self._reload = reload
        self._running = running

    async def run(
        self,
        request: api.RunRequest,
        emit: api.Emit[api.RunItem],
    ) -> api.RunItem:
        """Run a program; returns ``started``, or ``exited`` if asked to wait."""
        await self._reload()
        name = take_sandbox_name(request.record)
        running = self._running(name)
        record = find_record(self._records(), running.record if running else name)
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
        if record.viewer.sandbox_class == "disposable" and not guest.programs.live():
            # It goes by itself; whoever waited for the program may count on it.
            await self._viewer.power_off(
                guest.lease.id, reason="its last program has ended"
            )
        return api.RunItem(
            exited=api.Exited(
                sandbox=guest.lease.sandbox, program=program.number, code=code
            )
        )

    async def _start(
        self, running: Lease | None, record: Record, follower: Follower
    ) -> Guest:
        lease = running
        if lease is None:
            async with follower.step("start the machine"):
                lease = await self._host.start(
                    SandboxName(record.name), progress=follower.tell
                )
        guest = self._viewer.guest(lease.id)
        if guest is None:
            raise UpstreamError(f"{lease.sandbox} ended while it was started")
        return guest

    async def _hop_failed(self, guest: Guest, failure: Failure | None) -> None:
        if failure is not None:
            await self._log.note(
                schema.WindowHopFailed(
                    **journal.of(guest.lease),
                    hop=failure.hop.name.lower(),
                    reason=failure.reason,
                )
            )

    async def _give_up(self, guest: Guest, running: Lease | None, reason: str) -> None:
        """A disposable that was started for this, and came to nothing, goes."""
        record = self._viewer.record(guest.lease.record)
        disposable = record is None or record.viewer.sandbox_class == "disposable"
        if running is None and disposable:
            await self._viewer.power_off(
                guest.lease.id, reason=f"no window: {reason}", grace=1.0
            )


def find_record(records: RecordSet, name: SandboxName) -> Record:
    """Return a record.  Raises RefusedError that says what is wrong with it."""
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


def _own_command(record: Record) -> list[str]:
    if isinstance(record.host.launch, MicroVM):
        return list(record.host.launch.command)
    raise RefusedError(
        f"'{record.name}' is started by others; its agent takes no programs from us"
    )
