"""One sandbox as the viewer has it: its worker and its streams.

Parses no byte of the guest: agent and Wayland bytes are the worker's, and
what the worker says is decoded strictly and believed as a claim only.

Either process may die at any time.  Its windows go with it, the event says
so, and the next stream or program gets a new one.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec
import trio

from broker.authority.audit import event_log
from broker.core import limits
from broker.core.errors import (
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.files.trees import remove_tree
from broker.core.lease import Lease
from broker.core.stderr_log import log_exception, run_isolated
from broker.helpers.descriptor_copies import duplicates
from broker.host_and_viewer.sandbox_names import agentless, require_running
from broker.host_and_viewer.stream_events import StreamEvents
from broker.ipc import agent, transfer, worker
from broker.ipc.audit import schema
from broker.ipc.host_viewer import TaskStatus
from broker.ipc.in_thread import NoThreadError, in_thread
from broker.viewer.clipboard import clipboard_member
from broker.viewer.exchange.guest_connection import GuestConnections
from broker.viewer.folders.guest_folders import GuestFolders
from broker.viewer.sandboxes.dependencies import GuestTools, no_variables, unheard
from broker.viewer.sandboxes.launch_steps import Step, boot_state, without_agent
from broker.viewer.sandboxes.programs import (
    NO_STREAMS,
    LeaseProgram,
    LeasePrograms,
    ProgramInput,
    Streams,
    run_message,
)
from broker.viewer.sandboxes.streams import GuestStreams
from broker.viewer.sandboxes.time_zone import locale_environment, zone_variables
from broker.viewer.sound.sandbox_sound import GuestSound
from broker.viewer.wayland.screen import GuestScreen
from broker.viewer.wayland.window_rules import GuestFrames
from broker.viewer.workers.process import Worker
from broker.wire import fdpass
from policy.records.model import Record

_REMOVE_SECONDS = 5.0
"""For the removal of a display directory; a longer one continues in the background."""
_WARNINGS = 3
"""Last words of workers that are shown in a status."""


class Guest:
    """A leased sandbox on the viewer's side, from lease_begun to lease_ended."""

    def __init__(
        self,
        lease: Lease,
        record: Callable[[], Record | None],
        tools: GuestTools,
        *,
        display: Path,
        logs: Path,
    ) -> None:
        self.lease = lease
        self.since = time.time()
        self.stopping = False
        """Whether its end has been requested."""
        self.suspended = False  # else no request reaches its agent
        self._record = record
        self._tools = tools
        self._display = display
        self.programs = LeasePrograms(logs, lease.id)
        self.transfers = GuestConnections()
        """Its programs' requests about files and links."""
        self.warnings: deque[str] = deque(maxlen=_WARNINGS)
        self.folders = GuestFolders(
            self._order,
            lambda: None if self.agent is None else self.agent.version,
            lambda: require_running(lease.sandbox, suspended=self.suspended),
            self.warnings.append,
        )
        self.worker: Worker | None = None
        self.agent: agent.AgentHello | None = None
        self._had_agent = False
        self._agent_stream = 0
        self._making = trio.Lock()
        self.frames = GuestFrames(lease, record, tools.letters, tools.colours)
        """What frames say; they follow by ``follow_frames``."""
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self.agent_changed = trio.Event()
        self.idle = trio.Event()
        """Set when the last program has ended."""
        self.acted: Callable[[float], None] = unheard
        """Called when the user has acted in its windows, so many seconds ago."""
        self.rule_variables: Callable[[bool], Awaitable[dict[str, str]]] = no_variables
        """Returns the variables of a program, with a display or without, by the rules."""
        self.crossing = clipboard_member.ClipboardMember()
        """Receives its worker's messages about the clipboard."""
        self.screen = GuestScreen(
            lease,
            self.programs,
            self.warnings,
            tools.log,
            tools.compositor,
            notify=tools.notify,
        )
        self.streams = GuestStreams(
            StreamEvents(tools.log),
            self.valid_record,
            self._ensure_worker,
            programs=self.programs,
            screen=self.screen,
        )
        self.sound = GuestSound(
            lease,
            record,
            tools.log,
            ensure_worker=self._ensure_worker,
            start=self._start,
            session=tools.session,
            levels=tools.levels,
            revoked=tools.microphone_revoked,
            places=tools.sound_places,
        )
        self.sound.refused = self.programs.refused

    async def run(self, *, task_status: TaskStatus = trio.TASK_STATUS_IGNORED) -> None:
        """Run the guest's tasks until ``close`` cancels them."""
        self._display.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.streams.tell_displays, lambda: self.worker)
                nursery.start_soon(self.screen.watch_compositor)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # it takes no new tasks from here on

    def _start(self, step: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start a task of this guest.  Raises RefusedError when it is ending."""
        if self._nursery is None:
            raise RefusedError("this sandbox is shutting down")
        self._nursery.start_soon(run_isolated, step, *args)

    async def close(self, reason: str) -> None:
        """End the worker and every task; not cancellable."""
        with trio.CancelScope(shield=True):
            self._nursery = None
            await self.screen.close()
            self.programs.end_all(f"the sandbox ended: {reason}")
            self._scope.cancel()
            gone, self.worker = self.worker, None
            if gone is not None:
                await gone.close()
            self.frames.gone()
            self.streams.drop_arena()
            self._settle_streams("the lease ended")
            # The task that takes the worker's end was cancelled above.
            # guard: a sandbox's end removes its sound
            await self.sound.gone()
            self.idle.set()  # a task that waits for that need not any more
            # A jailed client may have filled it, and trio's thread serves all sandboxes.
            # Twice: a call may fail where memory or descriptors are used up.
            # guard: a sandbox ends without room for a thread
            with (
                trio.move_on_after(_REMOVE_SECONDS),
                contextlib.suppress(NoThreadError),
            ):
                for _ in range(2):
                    await in_thread(remove_tree, self._display, abandon_on_cancel=True)

    @property
    def state(self) -> str:
        """Return ``suspended``, ``stopped`` by the host, or ``starting`` until our machine's agent has reported; others run at once."""
        record = self._record()
        if self.suspended:
            return "suspended"
        if self.programs.shortage:
            return "stopped"
        if self.agent is None and (record is None or record.host.launch.kind.agent):
            return boot_state(record, self.since, had_agent=self._had_agent)
        return "no agent yet" if self.without_agent else "running"

    @property
    def without_agent(self) -> str:
        """What a user should know of a guest whose agent has never connected."""
        return without_agent(self.lease.sandbox, self._record(), seen=self._had_agent)

    def valid_record(self) -> Record:
        """Return the record as it is now.  Raises RefusedError when it is gone."""
        record = self._record()
        if record is None:
            raise RefusedError(
                f"the record '{self.lease.record}' was removed or is no longer valid",
                hint="to find mistakes in records, run 'brokerctl policy check'",
            )
        return record

    async def follow_record(self) -> None:
        """Apply the changed record to windows and sound.

        A record that has gone or has an error changes nothing here; streams that it denies
        are cut by the code that decides about them.
        """
        record, mine = self._record(), self.worker
        if mine is not None and record is not None:
            # First the removals: a colour may have to wait for another sandbox.
            await self.sound.follow_record(record)
            with contextlib.suppress(UpstreamError):  # it has just ended
                await self.frames.follow(mine)

    async def follow_frames(self) -> None:
        """Have the frames say what was marked."""
        mine = self.worker
        if mine is not None:
            with contextlib.suppress(UpstreamError):  # it has just ended
                await self.frames.follow(mine)

    # -- the worker ----------------------------------------------------------

    def prepare(self) -> None:
        """Start the worker of a box already, while its program starts.

        Other sandboxes take longer to start, or may never open a window.
        """
        record = self._record()
        if record is None or record.viewer.display != "allow":
            return
        if record.host.launch.kind.instant:
            self._start(self._worker_early)

    async def _worker_early(self) -> None:
        # Where that fails the first stream tries again, and says why.
        with contextlib.suppress(VitrailError):
            await self._ensure_worker()

    async def _look_for_screen(self) -> None:
        """Check that a compositor answers; report to waiting runs if none does."""
        # The worker also speaks with the agent, and a program without a window needs
        # no screen.
        try:
            await self._tools.compositor()
        except SetupError as error:
            self.programs.no_screen(str(error))
        except UpstreamError:
            pass  # nobody can look: its connections will fail, or not

    async def _ensure_worker(self) -> Worker:
        """Return the sandbox's worker, started if needed.  Raises RefusedError."""
        async with self._making:
            if self.worker is not None:
                return self.worker
            if self._nursery is None:
                raise RefusedError("this sandbox is shutting down")
            compositor = self._tools.display() or await self._tools.compositor()
            record = self.valid_record()
            started = await self._tools.workers.open_worker(
                self.lease.sandbox,
                self._display,
                compositor,
                rules=await self.frames.begin(record),
                clients=record.viewer.limits.wayland_clients,
                chords=self.crossing.chords(),
            )
            try:
                self._start(self._listen, started)
                self._start(self._look_for_screen)
            except RefusedError:  # the lease has ended, and it must not outlive it
                await started.close()
                raise
            self.worker = started
            # guard: a worker is told all, whatever it began for
            with trio.move_on_after(limits.WORKER_START_SECONDS, shield=True):
                # guard: a record that changed while the worker began
                await self.follow_record()
                await self.crossing.tell_drags(started)
            self.streams.displays_changed.set()
            return started

    async def _listen(self, mine: Worker) -> None:
        """Handle the worker's messages until it ends."""
        try:
            async for message in mine.messages:
                try:
                    if isinstance(message, worker.FromSound):
                        await self.sound.take(message)
                    elif isinstance(message, transfer.FromWorker):
                        self.transfers.take(message)
                    elif isinstance(message, clipboard_member.Said):
                        await self.crossing.take(message)
                    else:
                        await self._take(message)
                except PeerError as error:
                    await self.screen.broke(str(error))
        except Exception as error:  # noqa: BLE001
            log_exception(error)
            await mine.close("an internal error occurred; see the broker's log")
        reason = await mine.wait_closed()
        self.worker = None
        self.frames.gone()
        self._settle_streams("the worker died")
        self.screen.worker_died()
        self.transfers.worker_gone()
        await self.sound.gone()
        await self.crossing.gone()
        self.programs.fail(f"the sandbox's worker died: {reason}", Step.COMPOSITOR)
        await self._tools.log.note(
            schema.ProcessDied(
                **event_log.of(self.lease),
                process=schema.Process.WORKER,
                pid=mine.keeper_pid,
                reason=f"{printable(reason)}; the sandbox's windows ended with it",
            )
        )

    async def _take(self, message: worker.FromRest) -> None:
        """Handle one message of the sandbox's worker, by its type."""
        match message:
            case worker.FromAgent():
                await self._take_agent(message)
            case worker.AgentClosed() | worker.DisplayClosed():
                self.streams.take(message)
                if message.stream == self._agent_stream:
                    self._set_agent(None)
            case worker.UserInput(ago):
                self.acted(ago)
            case worker.WaylandAnswered(unlettered=True):
                await self.screen.take(message)
                with contextlib.suppress(RefusedError):  # the sandbox is ending
                    self._start(self.frames.letter)
            case worker.Violation():
                await self.screen.broke(printable(message.reason))
            case worker.Broken():
                self.warnings.append(f"worker: {printable(message.reason, 2000)}")
            case (
                worker.WorkerReady()
                | worker.WorkerStatistics()
                | worker.Windows()
                | worker.WindowClosed()
            ):
                pass  # the supervisor's Worker keeps these
            case _:
                await self.screen.take(message)

    async def order(
        self,
        message: transfer.ToWorker,
        fds: Sequence[int] = (),
    ) -> None:
        """Send the worker a message about files, links and calls.

        The caller keeps its copies of ``fds``, which may be closed as soon as this
        waits: the other end of a transfer is another sandbox's task.
        """
        # guard: descriptors of an order to a worker that begins
        mine = duplicates(fds)
        try:
            await (await self._ensure_worker()).send(message, mine)
        finally:
            fdpass.close_all(mine)

    async def raise_window(self, order: worker.RaiseWindow) -> None:
        """Raise the guest's window, if it has one."""
        if self.worker is not None:
            with contextlib.suppress(VitrailError):  # it has just ended
                await self.worker.send(order)

    # -- the guest's agent ------------------------------------------------------

    def _settle_streams(self, reason: str) -> None:
        self._set_agent(None)
        self.streams.settle(reason)

    def _set_agent(self, hello: agent.AgentHello | None) -> None:
        self.agent = hello
        self.agent_changed.set()
        self.agent_changed = trio.Event()

    async def _take_agent(self, message: worker.FromAgent) -> None:
        """Handle the agent's message from the worker; mount folders, log programs' ends."""
        untrusted = message.message
        match untrusted:
            case agent.AgentHello():
                self._agent_stream, self._had_agent = message.stream, True
                self._set_agent(untrusted)
                await self._mount_folders()
                self.programs.agent_up()
                self.programs.adopt(untrusted.programs)
                await self._record_lost(untrusted.programs)
                if self.programs.over(self._record()):
                    self.idle.set()  # nothing runs, and no other program is requested
            case agent.AgentMounted():
                self.folders.take(untrusted)
            case agent.AgentStep():
                await self.screen.agent_step(untrusted, self._record())
            case _:
                await self._record_exit(self.programs.take(untrusted))

    async def _mount_folders(self) -> None:
        """Have the folders mounted; a guest that cannot still runs its programs."""
        try:
            await self.folders.agent_up()
        except VitrailError as error:
            self.warnings.append(str(error))

    async def _record_lost(self, claimed: Sequence[int]) -> None:
        """Record the end, with code -1, of programs that a new agent does not report."""
        for program in self.programs.live():
            known = program.number in claimed or program.way.next in {
                Step.AGENT,
                Step.PROGRAM,
            }
            if not known:
                lost = agent.AgentExited(program.number, -1)
                await self._record_exit(self.programs.take(lost))

    async def _record_exit(self, program: LeaseProgram | None) -> None:
        """Record the exit of a program, and set ``idle`` when none runs; None: of none."""
        if program is None:
            return
        await self._tools.log.note(
            schema.ProgramExited(
                **event_log.of(self.lease),
                program=program.number,
                code=program.code or 0,
            )
        )
        if self.programs.over(self._record()):
            self.idle.set()

    async def start_program(
        self,
        argv: Sequence[str],
        env: dict[str, str],
        *,
        display: bool,
        streams: Streams = NO_STREAMS,
        wait_window: bool = True,
    ) -> LeaseProgram:
        """Order a program from the guest's agent, which may still be starting.

        ``display`` gives it a Wayland display; ``wait_window``: a window of it is
        waited for.  Returns at once (``LeaseProgram.way`` has its progress); a failed
        start is logged.  Raises RefusedError at the limit of programs, or without agent.
        """
        record = self.valid_record()
        if self._nursery is None:
            raise RefusedError("this sandbox is shutting down")
        # guard: no request waits for a suspended sandbox
        require_running(self.lease.sandbox, suspended=self.suspended)
        if record.host.launch.kind.box:
            raise agentless(self.lease.sandbox, record)
        display = display and record.viewer.display != "none"
        # The guest has UTC and the language of its start without it.
        looks = locale_environment(record.viewer)
        zone = {} if "TZ" in env else zone_variables(record.viewer.timezone)
        given = {**zone, **looks, **await self.rule_variables(display), **env}
        program = self.programs.new(
            Path(argv[0]).name,
            display=display and wait_window,
            limit=record.viewer.limits.programs,
        )
        program.tty = streams.tty
        if streams.stdin or streams.tty:
            program.input = ProgramInput()
        if self.idle.is_set():
            self.idle = trio.Event()
        program.way.reach(Step.MACHINE, trio.current_time())
        if self.agent is not None:
            program.way.reach(Step.AGENT, trio.current_time())
        message = run_message(program.number, argv, given, streams, display=display)
        try:
            await self._tools.log.require(
                schema.ProgramStarted(
                    **event_log.of(self.lease),
                    program=program.number,
                    name=printable(program.name, 60),
                )
            )
            self._start(self._send_when_up, program, message)
        except BaseException:
            # The guest will not be asked for it, so it must not count as running.
            self.programs.drop(program, "the broker could not send the request")
            if self.agent is not None and self.programs.over(self._record()):
                self.idle.set()
            raise
        return program

    async def _send_when_up(self, program: LeaseProgram, message: agent.Run) -> None:
        """Wait for the agent, then send it the order for a program."""
        while self.agent is None:
            await self.agent_changed.wait()
        if self.worker is None or program.ended:
            return
        if program.input is not None and self.agent.version < agent.INPUT_VERSION:
            # Refused here: it would end its connection over the unknown field.
            old = "the guest agent is too old to support standard input and terminals"
            self.programs.drop(program, old)
            await self._record_exit(program)
            return
        if self.agent.version < agent.PACED_VERSION:
            message = msgspec.structs.replace(message, stderr=False, window=0)
        try:
            await self.worker.send(worker.ToAgent(message))
        except VitrailError as error:
            # guard: a program whose order was not sent takes no place of others
            self.programs.drop(program, str(error), Step.PROGRAM)
            await self._record_exit(program)
        else:
            self.programs.save_asked(program)

    async def write_input(
        self, program: LeaseProgram, data: bytes, *, end: bool
    ) -> None:
        """Write bytes to a program's standard input; return when they are sent.

        Waits while the program does not read.  Raises RefusedError when it has
        no input, has closed it or has ended.
        """
        if program.input is None:
            raise RefusedError(f"program {program.number} has no standard input")
        size = limits.AGENT_INPUT_BYTES
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        async with program.input.writing:
            for piece in pieces:
                await self._send_input(program, program.input, piece)
            if end and not program.input.ended:
                program.input.ended = True
                await self._order(agent.Input(program=program.number, end=True))

    async def _send_input(
        self, program: LeaseProgram, to: ProgramInput, piece: bytes
    ) -> None:
        """Send a piece of input once the program's window has room for it."""
        while to.room < len(piece) and not program.ended:
            await program.changed.wait()
        if program.ended or to.ended:
            raise RefusedError(f"program {program.number} accepts no more input")
        to.room -= len(piece)
        await self._order(agent.Input(program=program.number, data=piece))

    async def take_more(self, program: LeaseProgram, count: int) -> None:
        """Report to the guest that ``count`` bytes of output were read; 0: no reader.

        A guest that is gone need not be notified, nor a guest of an older agent.
        """
        now = self.agent
        if now is None or now.version < agent.PACED_VERSION or program.ended:
            return
        with contextlib.suppress(VitrailError):
            await self._order(agent.More(program=program.number, count=count))

    async def resize(self, program: LeaseProgram, rows: int, columns: int) -> None:
        """Set the size of a program's terminal."""
        if program.tty:
            await self._order(agent.Resize(program.number, rows, columns))

    async def _order(self, order: agent.ToGuest) -> None:
        if self.worker is None or self.agent is None:
            raise RefusedError("the guest agent is not connected")
        await self.worker.send(worker.ToAgent(order))

    async def signal(self, program: LeaseProgram, number: int) -> None:
        """Send a signal to a program, if the guest can be asked."""
        if self.worker is not None and not program.ended:
            order = agent.Signal(program=program.number, number=number)
            await self.worker.send(worker.ToAgent(order))

    async def power_off(self) -> bool:
        """Ask the guest's agent to switch off; False if there is none to ask."""
        if self.agent is None or self.worker is None:
            return False
        try:
            await self.worker.send(worker.ToAgent(agent.AgentPowerOff()))
        except VitrailError:
            return False  # nor does its worker take orders
        return True
