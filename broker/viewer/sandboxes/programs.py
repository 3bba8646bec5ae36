"""The programs of one sandbox: each one's request, progress and end."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.helpers.console_log import ConsoleLog
from broker.ipc.agent import (
    AgentExited,
    AgentFailed,
    AgentStarted,
    Output,
    Run,
    Taken,
)
from broker.viewer.sandboxes.launch_steps import LaunchProgress, Step
from policy.records.model import Record, is_of_others


@dataclass(frozen=True)
class Streams:
    """The standard streams of a program; ``tty`` with its size in characters."""

    stdin: bool = False
    tty: bool = False
    rows: int = 24
    columns: int = 80
    stderr: bool = False
    """The standard error comes apart."""
    paced: bool = False
    """The program waits for the reader of its output."""


NO_STREAMS = Streams()
FILES_PROGRAM = "vitrail-files"
"""The agent's program that copies and opens files, and serves calls."""


def run_message(
    number: int,
    argv: Sequence[str],
    env: dict[str, str],
    streams: Streams,
    *,
    display: bool,
) -> Run:
    """Return the message that orders the guest's agent to run a program."""
    return Run(
        program=number,
        argv=list(argv),
        env=env,
        display=display,
        stdin=streams.stdin,
        tty=streams.tty,
        rows=streams.rows,
        columns=streams.columns,
        stderr=streams.stderr,
        window=limits.AGENT_OUTPUT_WINDOW if streams.paced else 0,
    )


class ProgramInput:
    """How much may be sent to a program's standard input."""

    def __init__(self) -> None:
        self.room = limits.AGENT_INPUT_WINDOW
        self.ended = False
        self.writing = trio.Lock()

    def taken(self, untrusted_count: int) -> None:
        """Count that the guest has passed on so many bytes: there is room for more.

        A guest that reports more than it was sent gains nothing: the room never
        becomes more than the window.
        """
        room = self.room + untrusted_count
        self.room = min(room, limits.AGENT_INPUT_WINDOW)


@dataclass(eq=False)
class LeaseProgram:
    """One program.  ``code`` is None while it runs."""

    number: int
    name: str
    way: LaunchProgress
    display: bool
    log: ConsoleLog
    began: float = field(default_factory=time.time)
    code: int | None = None
    changed: trio.Event = field(default_factory=trio.Event)
    listeners: list[Callable[[bytes, bool], None]] = field(default_factory=list)
    """Called with its output, and whether that went to standard error."""
    input: ProgramInput | None = None
    """None: its standard input is empty."""
    tty: bool = False
    on_failure: Callable[[int], None] | None = None
    """Called with its exit code where it fails before it has opened the display."""

    def wake(self) -> None:
        """Wake the tasks that wait for a change."""
        self.changed.set()
        self.changed = trio.Event()

    @property
    def ended(self) -> bool:
        """Return whether the program has ended, or never began."""
        return self.code is not None


async def wait_ended(program: LeaseProgram) -> None:
    """Return when the program has ended."""
    while not program.ended:
        await program.changed.wait()


async def wait_unless_ended(program: LeaseProgram, event: trio.Event) -> None:
    """Wait until the event is set, or the program has ended."""
    async with trio.open_nursery() as nursery:

        async def ended() -> None:
            await wait_ended(program)
            nursery.cancel_scope.cancel()

        nursery.start_soon(ended)
        await event.wait()
        nursery.cancel_scope.cancel()


KEPT_LOGS = 32
"""Newest programs of a sandbox whose output is kept beside those that run."""

_ASKED = "lease-with-programs"
"""A file with the id of the sandbox's last lease in which the user had a program run."""
_ID_BYTES = 64
_LARGEST_CLAIM = 0x7FFFFFFF
"""Beyond it no number of a log is counted on from: a guest may have claimed
it, and the agent's protocol ends at 0xFFFFFFFF."""


def _opened(flags: int, path: str, _flags: int) -> int:
    """Open a file that a viewer that was taken over may have made, without a wait."""
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)


def _noted(path: Path) -> bytes:
    """Return the id of a lease in a file; empty: there is none."""
    with (
        contextlib.suppress(OSError),
        open(path, "rb", opener=partial(_opened, os.O_RDONLY)) as file,
    ):
        return file.read(_ID_BYTES)
    return b""


def _numbers(logs: Path) -> list[int]:
    """Numbers of the programs that have a log."""
    found = (re.fullmatch(r"program-(\d{1,10})\.log", p.name) for p in logs.glob("*"))
    return [int(match[1]) for match in found if match]


_UNSEEN = frozenset({Step.MACHINE, Step.AGENT, Step.PROGRAM, Step.STREAM})
# The exit code of a shell for a command that it could not find.
_NOT_STARTED = 127


def _failed(program: LeaseProgram, code: int) -> None:
    unseen = program.way.next in _UNSEEN
    how = f"with code {code}" if code >= 0 else f"by signal {-code}"
    program.way.fail(f"it ended {how}")
    if unseen and program.on_failure is not None:
        program.on_failure(code)


class LeasePrograms:
    """All programs of a lease; fed with the agent's claims."""

    def __init__(self, logs: Path, lease: str = "") -> None:
        """Set up the programs of one lease; ``logs`` is where their output is kept.

        ``lease``: its id.  Numbers continue from the newest log there: a guest that
        outlived its broker may still report the end of a program of before.
        """
        self._logs = logs
        known = (number for number in _numbers(logs) if number <= _LARGEST_CLAIM)
        self._first = self._next = max(known, default=0)
        self._live: dict[int, LeaseProgram] = {}
        self._adopted = False
        self._lease = lease.encode()
        # The lease of a machine that others started outlives a link, and a viewer.
        # guard: a machine ends with its program although the link was lost
        self.asked = bool(lease) and _noted(logs / _ASKED) == self._lease
        """Whether the user had a program run, which is more than to copy or open a file."""
        self.shortage = ""
        """Why the host has stopped the machine; "": it has not."""
        self.asking = 0
        """Questions to the user that a window waits for."""
        self.refusal_listeners: list[Callable[[str, str], None]] = []
        """Called with a service and the reason when one is refused to the sandbox."""

    def find(self, number: int) -> LeaseProgram | None:
        """The program of this number, if it has not ended."""
        return self._live.get(number)

    def live(self) -> list[LeaseProgram]:
        """Those that have not ended, oldest first."""
        return list(self._live.values())

    def over(self, record: Record | None) -> bool:
        """Return whether no program runs, and the sandbox has nothing more to do.

        A machine that others started runs programs of its own, or waits for the first:
        its last one has not ended before one of ours did.
        """
        of_others = record is not None and is_of_others(record.host.launch)
        return not self._live and (self.asked or not of_others)

    def new(self, name: str, *, display: bool, limit: int) -> LeaseProgram:
        """Register a new program.

        Raises RefusedError at the sandbox's limit, or if its machine is stopped.
        Removes the files of old programs' output beyond some.
        """
        # guard: no request waits for a machine that the host has stopped
        if self.shortage:
            raise RefusedError(f"the sandbox cannot start a program: {self.shortage}")
        if len(self._live) >= min(limit, limits.PROGRAMS_PER_SANDBOX):
            raise RefusedError(
                f"the sandbox already runs {len(self._live)} programs, the limit",
                hint="stop one of the programs, or raise limits.programs in the record",
            )
        self._next += 1
        while self._next in self._live:  # a guest claimed it
            self._next += 1
        program = LeaseProgram(
            self._next,
            name,
            LaunchProgress(trio.current_time()),
            display,
            self._new_log(self._next),
        )
        self._live[program.number] = program
        return program

    def save_asked(self, program: LeaseProgram) -> None:
        """Save that the user had a program run, unless it copies or opens files.

        Writes the lease's id to a file beside the logs, for the next viewer of the lease.
        A viewer that ends before this finds the program by ``adopt``.
        """
        if program.name != FILES_PROGRAM:
            self._save_asked()

    # Program numbers are never reused. A guest that outlives its broker reports the
    # ends of earlier programs. If numbers restarted, these would be taken for new
    # programs; so numbering continues from the newest log.
    def adopt(self, claimed: Sequence[int]) -> None:
        """Register programs that ran before this broker did, as far as there is room.

        A guest may make any claim here, once for each lease; it only
        keeps itself alive.
        """
        if self._adopted:
            return
        self._adopted = True
        for number in claimed:
            if number in self._live or self._first < number <= self._next:
                continue
            if len(self._live) >= limits.PROGRAMS_PER_SANDBOX:
                break
            way = LaunchProgress(trio.current_time())
            way.reach(max(Step), trio.current_time())
            program = LeaseProgram(
                number, "(of before)", way, display=False, log=self._new_log(number)
            )
            self._live[number] = program
            self._save_asked()

    def _save_asked(self) -> None:
        """Write the lease's id to a file beside the logs, for the next viewer; once."""
        if self._lease and not self.asked:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with (
                contextlib.suppress(OSError),  # no room: the next one will not know
                open(self._logs / _ASKED, "wb", opener=partial(_opened, flags)) as file,
            ):
                file.write(self._lease)
        self.asked = True

    def agent_up(self) -> None:
        """The guest's agent sent its hello: all that wait for it resume."""
        for program in self.live():
            self._reach(program, Step.AGENT)

    def display(self, step: Step) -> None:
        """Record a step of a window for all programs, as it is unknown whose it is.

        It says nothing of a program that has not been started yet.
        """
        for program in self.live():
            if program.way.next is not None and program.way.next > Step.PROGRAM:
                self._reach(program, step)

    def _reach(self, program: LeaseProgram, step: Step) -> None:
        program.way.reach(step, trio.current_time())
        program.wake()

    @contextlib.contextmanager
    def person_asked(self) -> Iterator[None]:
        """Suspend the deadlines of runs while the user is asked about windows."""
        self.asking += 1
        for program in self.live():
            program.wake()
        try:
            yield
        finally:
            self.asking -= 1

    def fail(self, reason: str, step: Step | None = None) -> None:
        """The way of every program that has no window yet ends here."""
        for program in self.live():
            program.way.fail(reason, step)
            program.wake()

    def refused(self, service: str, reason: str) -> None:
        """Notify the listeners here that a service was refused."""
        for listener in list(self.refusal_listeners):
            listener(service, reason)

    def no_screen(self, reason: str) -> None:
        """Fail the programs that need a display: there is no compositor."""
        for program in self.live():
            if program.display:
                program.way.fail(reason, Step.COMPOSITOR)
                program.wake()

    def take(
        self, message: AgentStarted | AgentFailed | Output | AgentExited | Taken
    ) -> LeaseProgram | None:
        """Apply the guest's message about its program.

        Returns the program if this ended it.  Numbers that we did not assign are
        ignored: only a guest with an error sends them.  Output is written to the
        program's file, and the lease's id to its own (``save_asked``).
        """
        program = self._live.get(message.program)
        if program is None:
            return None
        self.save_asked(program)  # its end may come before the sender runs on
        match message:
            case AgentStarted():
                self._reach(program, Step.PROGRAM)
            case Output():
                program.log.write(message.data)
                for listener in program.listeners:
                    listener(message.data, message.stderr)
            case Taken():
                if program.input is not None:
                    program.input.taken(message.count)
                    program.wake()
            case AgentFailed():
                program.way.fail(printable(message.reason), Step.PROGRAM)
                self._end(program, _NOT_STARTED)
                return program
            case AgentExited():
                if message.code != 0:
                    _failed(program, message.code)
                self._end(program, message.code)
                return program
        return None

    def end_all(self, reason: str) -> None:
        """The sandbox is gone, and so are they."""
        self.fail(reason)
        for program in self.live():
            self._end(program, -9)

    def drop(
        self, program: LeaseProgram, reason: str, step: Step | None = None
    ) -> None:
        """It was entered, and then could not be asked for."""
        program.way.fail(reason, step)
        self._end(program, _NOT_STARTED)

    def _new_log(self, number: int) -> ConsoleLog:
        """Open the log file of a program's output; delete old ones."""
        ended = sorted(set(_numbers(self._logs)) - self._live.keys() - {number})
        for old in ended[: 1 - KEPT_LOGS]:
            # By name: a viewer that was taken over may have left thousands.
            # guard: each old log costs no look at all of them
            for name in (f"program-{old}.log", f"program-{old}.log.1"):
                with contextlib.suppress(OSError):
                    (self._logs / name).unlink(missing_ok=True)
        return ConsoleLog(self._logs, name=f"program-{number}.log")

    def _end(self, program: LeaseProgram, code: int) -> None:
        program.code = code
        self._live.pop(program.number, None)
        program.log.close()
        program.wake()
