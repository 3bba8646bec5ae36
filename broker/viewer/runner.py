"""``brokerctl run``: a sandbox started where needed, and a program in it.

It uses ``host_viewer.Machines``, so the host may be a process of this machine or at the
other end of the link.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from broker.authority.audit import event_log
from broker.core.errors import InternalError, RefusedError, UpstreamError, VitrailError
from broker.core.launch_changes import LaunchChanges
from broker.core.lease import Lease
from broker.core.names import SandboxName, take_sandbox_name
from broker.core.services import DISPLAY
from broker.host_and_viewer.find_record import find_record
from broker.host_and_viewer.sandbox_names import agentless
from broker.ipc.audit import schema
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.host_viewer import Machines
from broker.viewer.calls.calls import own_call
from broker.viewer.role import ViewerRole
from broker.viewer.sandboxes.guest import Guest
from broker.viewer.sandboxes.launch_steps import Failure, Step
from broker.viewer.sandboxes.programs import NO_STREAMS, LeaseProgram, Streams
from broker.viewer.sandboxes.run_progress import Follower
from broker.wire.faults import NotFoundError
from policy.records.model import Record, RecordSet
from policy.rules import record_gate

_SIGHUP, _SIGKILL, _SIGTERM = 1, 9, 15
_TERM_SECONDS = 3.0
"""For a program to end voluntarily before it is killed."""
_ABANDON_SECONDS = 12.0
_LET_GO_SECONDS = 1.0
_LOOK_SECONDS = 0.02


@dataclass
class _Run:
    """One call of ``Runner.run``, and the things that it has started so far."""

    request: api.RunRequest
    record: Record
    running: Lease | None
    """The sandbox that ran before; None: this run starts its machine."""
    argv: list[str]
    guest: Guest | None = None
    program: LeaseProgram | None = None

    @property
    def display(self) -> bool:
        """Return whether the program gets a Wayland display."""
        asked = self.request.display
        return self.request.window is not False if asked is None else asked

    @property
    def changes(self) -> LaunchChanges:
        """How this start of the machine differs from its record."""
        asked = self.request
        return LaunchChanges.take(
            asked.memory_mib, asked.cpus, asked.network, asked.image
        )

    @property
    def streams(self) -> Streams:
        """Return which standard streams the program gets, as the request has them."""
        asked = self.request
        return Streams(
            stdin=bool(asked.stdin),
            tty=bool(asked.tty),
            rows=_in_terminal(asked.rows or NO_STREAMS.rows),
            columns=_in_terminal(asked.columns or NO_STREAMS.columns),
            stderr=bool(asked.stderr) and not asked.tty,
            paced=bool(asked.wait),
        )


class Runner:
    """Runs programs for the control socket of a broker that has a viewer."""

    def __init__(
        self,
        *,
        host: Machines,
        viewer: ViewerRole,
        log: event_log.EventLog,
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

    @serves(methods.RUN)
    async def run(
        self, exchange: Exchange[api.RunItem], request: api.RunRequest
    ) -> api.RunItem:
        """Run a program; returns ``started``, or ``exited`` if asked to wait.

        Has the records read again, and starts the sandbox if it does not run.  If asked
        to wait, powers a disposable sandbox off after its last program.
        Cancelled (the client has gone), it ends the program, and the machine if
        this call has started it and no other program runs there.
        """
        await self._reload()
        name = take_sandbox_name(request.record)
        running = self._running(name)
        record = find_record(self._records(), running.record if running else name)
        if request.window is not False:
            require_windows(self._records(), record, name)
        follower = Follower(exchange.emit, record)
        run = _Run(request, record, running, _command(request, record, name))
        try:
            guest, program = await self._bring_up(run, follower)
            item = api.RunItem(
                started=api.Started(sandbox=guest.lease.sandbox, program=program.number)
            )
            if not request.wait:
                return item
            await exchange.emit(item)
            code = await follower.attend(program)
        except BaseException:
            # Not 'except trio.Cancelled': out of a nursery it comes in a group.
            if trio.current_effective_deadline() == -math.inf:
                with trio.move_on_after(_ABANDON_SECONDS, shield=True):
                    await self._abandon(run)
            raise
        finally:
            follower.close()
            await _let_go(run)
        if record.viewer.sandbox_class == "disposable" and not guest.programs.live():
            # It stops automatically; a client that waited for the program relies on it.
            await self._viewer.power_off(
                guest.lease.id, reason="its last program has ended"
            )
        exited = api.Exited(
            sandbox=guest.lease.sandbox, program=program.number, code=code
        )
        return api.RunItem(exited=exited)

    @serves(methods.RUN_INPUT)
    async def write_input(
        self, exchange: Exchange[api.Nothing], request: api.RunInputRequest
    ) -> api.Nothing:
        """Write bytes to a program's input.

        Return when the guest has been sent them.
        """
        del exchange
        guest, program = self._program(request.sandbox, request.program)
        await guest.write_input(program, request.data or b"", end=bool(request.end))
        return api.Nothing()

    @serves(methods.RUN_RESIZE)
    async def resize(
        self, exchange: Exchange[api.Nothing], request: api.RunResizeRequest
    ) -> api.Nothing:
        """Set the size of a running program's terminal."""
        del exchange
        guest, program = self._program(request.sandbox, request.program)
        rows, columns = _in_terminal(request.rows), _in_terminal(request.columns)
        await guest.resize(program, rows, columns)
        return api.Nothing()

    def _program(self, untrusted_name: str, number: int) -> tuple[Guest, LeaseProgram]:
        """Return the guest and program of a name and number.  Raises NotFoundError."""
        name = take_sandbox_name(untrusted_name)
        for guest in self._viewer.guests():
            program = guest.programs.find(number)
            if guest.lease.sandbox == name and program is not None:
                return guest, program
        raise NotFoundError(f"no program {number} is running in {name}")

    async def _bring_up(
        self, run: _Run, follower: Follower
    ) -> tuple[Guest, LeaseProgram]:
        """Start the machine if needed, start the program, and wait for its window.

        A step that fails is recorded in the audit log, and a machine that does not boot
        is started a second time.
        """
        for last in (False, True):
            run.program = None
            run.guest = guest = await self._start(
                run.running, run.record, follower, run.changes
            )
            follower.watch(guest)
            run.program = program = await guest.start_program(
                run.argv,
                run.request.env or {},
                display=run.display,
                wait_window=run.request.window is not False,
                streams=run.streams,
            )
            if run.request.wait:
                follower.listen(guest, program)
            try:
                # A client that waits sees the window itself; other clients are
                # answered only after the window has appeared.
                until = Step.COMPOSITOR if run.request.wait else Step.WINDOW
                await follower.follow(guest, program, last=until)
            except UpstreamError as error:
                await self._step_failed(guest, follower.failure)
                # A boot that hangs is known of emulated machines; one more
                # try, and it is reported.
                failure = follower.failure
                hung = failure is not None and failure.step is Step.AGENT
                retry = hung and run.running is None and not last
                await self._give_up(guest, run.running, str(error))
                if not retry:
                    raise
                await follower.say("try again", "begun", str(error))
            else:
                return guest, program
        raise InternalError("the run ended without a program")

    async def _abandon(self, run: _Run) -> None:
        """End the programs of a run whose client has gone."""
        guest, program = run.guest, run.program
        if guest is None:
            return  # a machine that was being started is ended by its host
        others = [one for one in guest.programs.live() if one is not program]
        with contextlib.suppress(VitrailError):  # it is ending already
            if run.running is None and not others:
                reason = "the command that started it was interrupted"
                await self._viewer.power_off(guest.lease.id, reason=reason, grace=1.0)
            elif program is not None:
                await _end_program(guest, program)

    async def _start(
        self,
        running: Lease | None,
        record: Record,
        follower: Follower,
        changes: LaunchChanges,
    ) -> Guest:
        """Start a record's sandbox if it does not run; return its guest.

        Raises RefusedError for changes to a running one.
        """
        lease = running
        # guard: a second program changes no machine
        if lease is not None and changes:
            raise RefusedError(
                f"{lease.sandbox} is already running: memory, processors, network and image are "
                "set when a sandbox starts",
                hint=f"to stop the sandbox first, run 'brokerctl stop {lease.sandbox}'",
            )
        if lease is None:
            async with follower.step("start the machine"):
                lease = await self._host.start(
                    SandboxName(record.name), progress=follower.tell, changes=changes
                )
        # A lease is listed before the viewer has its guest: a run that comes right
        # after another program has started the machine waits for that.
        while (guest := self._viewer.guest(lease.id)) is None:
            if self._running(lease.sandbox) != lease:
                raise UpstreamError(
                    f"{lease.sandbox} ended while it was starting",
                    hint="to see the reason, run 'brokerctl audit'",
                )
            await trio.sleep(_LOOK_SECONDS)
        return guest

    async def _step_failed(self, guest: Guest, failure: Failure | None) -> None:
        """Record the step that failed on the way to a window."""
        if failure is not None:
            await self._log.note(
                schema.WindowHopFailed(
                    **event_log.of(guest.lease),
                    hop=failure.step.name.lower(),
                    reason=failure.reason,
                )
            )

    async def _give_up(self, guest: Guest, running: Lease | None, reason: str) -> None:
        """Stop a disposable that was started for a program which showed no window."""
        record = self._viewer.record(guest.lease.record)
        disposable = record is None or record.viewer.sandbox_class == "disposable"
        if running is None and disposable:
            await self._viewer.power_off(
                guest.lease.id, reason=f"no window: {reason}", grace=1.0
            )


async def _let_go(run: _Run) -> None:
    """A program that runs without its client need not wait for one."""
    if run.guest is not None and run.program is not None and run.streams.paced:
        with trio.move_on_after(_LET_GO_SECONDS, shield=True):
            await run.guest.take_more(run.program, 0)


def _in_terminal(number: int) -> int:
    """A number of rows or columns that a terminal can have (ioctl_tty(2))."""
    return min(max(number, 1), 65535)


async def _end_program(guest: Guest, program: LeaseProgram) -> None:
    """Ask a program to end, and kill it when it does not."""
    # An interactive shell ignores SIGTERM; its terminal going away ends it.
    await guest.signal(program, _SIGHUP if program.tty else _SIGTERM)
    with trio.move_on_after(_TERM_SECONDS):
        while not program.ended:
            await program.changed.wait()
    await guest.signal(program, _SIGKILL)


def require_windows(records: RecordSet, record: Record, name: SandboxName) -> None:
    """Raise RefusedError, with the record's line, where it allows no windows."""
    asked = record_gate.RecordRequest(name, SandboxName(record.name), DISPLAY)
    allowed = record_gate.record_allows(records, asked)
    if not allowed.allowed:
        raise RefusedError(
            f"no window: {allowed.reason}",
            where=allowed.where,
            hint="to run a program without windows, use '--no-window'",
        )


def _command(request: api.RunRequest, record: Record, sandbox: str) -> list[str]:
    """Return the command that a request names.  Raises RefusedError."""
    if request.service is not None:
        return own_call(record, request.service, request.argument or "")
    return request.argv or _own_command(record, sandbox)


def _own_command(record: Record, sandbox: str) -> list[str]:
    kind = record.host.launch.kind
    if kind.agent:
        return list(record.host.command)
    if kind.box:
        raise agentless(sandbox, record)
    raise RefusedError(
        f"cannot start a program in '{record.name}': another launcher manages the sandbox"
    )
