"""The programs that the broker asked for: input, output, ends.

The guest agent starts and signals them, and sends their output to the broker.
"""

from __future__ import annotations

import binascii
import collections
import contextlib
import fcntl
import os
import selectors
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Any, Deque, Dict, List, Optional, Tuple

from shims.guest.account import kill_group
from shims.guest.called import waits_for_session
from shims.guest.loop import log
from shims.guest.protocol import (
    INPUT_WINDOW,
    OUTPUT_BYTES,
    OUTPUT_OVERHEAD,
    PIECE_BYTES,
    PROGRAMS,
    TEXT,
)

if TYPE_CHECKING:
    from shims.guest.guest import Guest

KEPT_OUTPUT = 65536  # bytes of a program's output kept while the broker is away
LAST_OUTPUT = 1 << 21  # and of one that ended before its reader has taken it all
LEAST_ROOM = OUTPUT_OVERHEAD + 64  # a message is sent when the window has this
GATHER_SECONDS = 0.02  # many small writes become one message
DRAIN_SECONDS = 0.2  # from a program's end to the end of its output
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # it, or the last of its shell
MEMORY_FULL = (
    "[vitrail: the sandbox's memory was full ({} MiB), and its kernel ended the program;"
    " to give it more, run 'brokerctl set SANDBOX memory 2G']"
)


class Program:
    """A program that the broker asked for, until its end has been reported."""

    def __init__(self, number: int, message: Dict[str, Any]) -> None:
        self.number = number
        self.message = message
        self.pid = 0  # 0 before the start, and after it has been reaped
        self.pipes: Dict[int, bool] = {}  # where its output is read -> of stderr?
        self.paused = False  # they are not read: its reader is slower than it
        # Bytes that the broker takes now; None: as much as there is.
        self.room: Optional[int] = message["window"] or None
        self.kept: Deque[Tuple[bool, bytes]] = collections.deque()
        self.kept_bytes = 0
        self.dropped = 0
        self.gathering = False
        self.result: Optional[Tuple[str, Dict[str, Any]]] = None
        self.input = -1  # where its standard input is written; a terminal's master
        self.unwritten: Deque[bytes] = collections.deque()
        self.unwritten_bytes = 0
        self.input_ends = False
        self.killed_before = 0  # programs of this kernel, for want of memory

    @property
    def running(self) -> bool:
        """Return whether the program waits to be started, or runs."""
        return self.result is None

    @property
    def full(self) -> bool:
        """Return whether its output waits for its reader, so that it is not read."""
        return self.running and self.room is not None and self.kept_bytes >= KEPT_OUTPUT

    def keep(self, data: bytes, *, error: bool) -> None:
        """Keep output for the broker; without a window, the newest.

        Without a window the oldest goes beyond KEPT_OUTPUT: the program must not
        wait for a broker that is away.
        """
        self.kept.append((error, data))
        self.kept_bytes += len(data)
        while self.kept_bytes > KEPT_OUTPUT and self.room is None:
            _, gone = self.kept.popleft()
            self.kept_bytes -= len(gone)
            self.dropped += len(gone)

    def take(self) -> Optional[Tuple[bool, bytes]]:
        """Return the next piece to send and whether it is of stderr, or nothing."""
        if self.room is not None and self.room < LEAST_ROOM:
            return None
        if self.dropped:
            note = f"\n[vitrail: {self.dropped} bytes of output were lost]\n"
            self.dropped = 0
            return self._counted(error=False, data=note.encode())
        if not self.kept:
            return None
        most = OUTPUT_BYTES
        if self.room is not None:
            most = min(most, self.room - OUTPUT_OVERHEAD)
        error, data = self.kept.popleft()
        while self.kept and self.kept[0][0] == error and len(data) < most:
            data += self.kept.popleft()[1]
        if len(data) > most:
            self.kept.appendleft((error, data[most:]))
            data = data[:most]
        self.kept_bytes -= len(data)
        return self._counted(error=error, data=data)

    def _counted(self, *, error: bool, data: bytes) -> Tuple[bool, bytes]:
        if self.room is not None:
            self.room -= len(data) + OUTPUT_OVERHEAD
        return error, data


class Programs:
    """All programs of this guest."""

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest
        self._loop = guest.loop
        self._table: Dict[int, Program] = {}

    def running(self) -> List[int]:
        """Return the numbers of the programs that have not ended."""
        return sorted(p.number for p in self._table.values() if p.running)

    def run(self, message: Dict[str, Any]) -> None:
        """Start a program, at once or when the display is ready."""
        number = message["program"]
        agent = self._guest.agent
        if number in self._table:
            agent.send(
                "failed", program=number, reason="the program is already running"
            )
            return
        if len(self._table) >= PROGRAMS:
            agent.send(
                "failed",
                program=number,
                reason=f"{PROGRAMS} programs are already running",
            )
            return
        if waits_for_session(message["argv"]):
            message["display"] = True
        program = self._table[number] = Program(number, message)
        if message["display"]:
            self._guest.display.when_ready(lambda reason: self._start(program, reason))
        else:
            self._start(program, "")

    def signal(self, number: int, signum: int) -> None:
        """Send a signal to a program's process group."""
        program = self._table.get(number)
        if program is None or not 1 <= signum <= 64:
            return
        if program.pid:
            kill_group(program.pid, signum)
        elif program.running and signum in (
            signal.SIGTERM,
            signal.SIGKILL,
            signal.SIGINT,
        ):
            self._end(program, "exited", code=-signum)  # it waits for the display

    def feed(self, number: int, data: bytes, *, end: bool) -> None:
        """Write to a program's standard input; ``end`` closes it after that.

        The broker sends no more than INPUT_WINDOW bytes that we have not
        reported as taken.  Bytes beyond it are an error, and are dropped.
        """
        program = self._table.get(number)
        if program is None or not program.running or program.input_ends:
            return
        if program.unwritten_bytes + len(data) > INPUT_WINDOW:
            log(f"program {number}: received more input than requested")
            return
        if data:
            program.unwritten.append(data)
            program.unwritten_bytes += len(data)
        program.input_ends = end
        self._write_input(program)

    def resize(self, number: int, rows: int, columns: int) -> None:
        """Set the size of a program's terminal; its foreground job hears of it."""
        program = self._table.get(number)
        if program is not None and program.message["tty"] and program.input >= 0:
            set_size(program.input, rows, columns)

    def raise_output_limit(self, number: int, count: int) -> None:
        """Raise a program's output limit by ``count`` bytes; 0 removes the limit.

        Sends kept output to the broker, and the end after it; reads its pipes again.
        """
        program = self._table.get(number)
        if program is None or program.room is None:
            return
        program.room = program.room + count if count else None
        self._push(program)

    def lift_windows(self) -> None:
        """The broker is gone: no program waits for a reader that it had."""
        for program in self._table.values():
            program.room = None
            self._watch_output(program)

    def _write_input(self, program: Program) -> None:
        """Write waiting input to a program; report what it took."""
        if program.input < 0:
            return  # it has not been started, or reads no more
        try:
            while program.unwritten:
                sent = os.write(program.input, program.unwritten[0])
                rest = program.unwritten.popleft()[sent:]
                program.unwritten_bytes -= sent
                if rest:
                    program.unwritten.appendleft(rest)
                self._guest.agent.send("taken", program=program.number, count=sent)
            if program.input_ends and program.message["tty"]:
                os.write(program.input, b"\x04")
        except BlockingIOError:
            self._loop.watch(
                program.input,
                selectors.EVENT_WRITE,
                lambda _events: self._write_input(program),
            )
            return
        except OSError:
            self._close_input(program)  # nothing reads it any more
            return
        self._loop.forget(program.input)
        if program.input_ends and not program.message["tty"]:
            self._close_input(program)

    def _close_input(self, program: Program) -> None:
        """Close it, and discard further input: it is lost, as with a closed pipe."""
        if program.input >= 0:
            self._loop.forget(program.input)
            os.close(program.input)
            program.input = -1
        lost, program.unwritten_bytes = program.unwritten_bytes, 0
        program.unwritten.clear()
        program.input_ends = True
        if lost:
            self._guest.agent.send("taken", program=program.number, count=lost)

    def signal_all(self, signum: int) -> None:
        """Send a signal to every program's process group."""
        for number in list(self._table):
            self.signal(number, signum)

    def push_all(self) -> None:
        """Send what waited for the broker: output first, then ends."""
        for program in list(self._table.values()):
            self._push(program)

    def _start(self, program: Program, reason: str) -> None:
        """Start a program, or report why that failed."""
        if not program.running:
            return
        if reason:
            self._end(program, "failed", reason=reason[:TEXT])
            return
        program.killed_before = kernel_number("vmstat", "oom_kill")
        read, write, source = self._open_streams(program)
        error_read, error_write = self._open_errors(program, write)
        process = None
        try:
            if self._guest.forks(program.message):
                pid = self._guest.fork_tool(
                    program.message, (source, write, error_write)
                )
            else:
                process = self._guest.account.start(
                    program.message["argv"],
                    env=self._guest.environment(program.message),
                    stdin=source,
                    stdout=write,
                    stderr=error_write,
                    terminal=program.message["tty"],
                )
                pid = process.pid
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            for fd in {read, error_read} - {-1}:
                os.close(fd)
            self._close_input(program)
            what = program.message["argv"][0]
            why = (
                os.strerror(error.errno or 0)
                if isinstance(error, OSError)
                else str(error)
            )
            self._end(program, "failed", reason=f"cannot start {what}: {why}"[:TEXT])
            return
        finally:
            for fd in {write, error_write, source} - {-1}:
                os.close(fd)
        program.pid = pid
        program.pipes = {read: False}
        if error_read >= 0:
            program.pipes[error_read] = True
        self._guest.agent.send("started", program=program.number)
        self._write_input(program)
        for fd in program.pipes:
            self._watch_pipe(program, fd)
        if process is None:
            self._loop.child_number(pid, lambda code: self._ended(program, code))
        else:
            self._loop.child(process, lambda code: self._ended(program, code))

    def _open_streams(self, program: Program) -> Tuple[int, int, int]:
        """Open a program's streams: where output is read, output, input.

        With a terminal its three streams are one, the terminal's slave.
        """
        if program.message["tty"]:
            read, slave = os.openpty()
            os.fchown(slave, self._guest.account.uid, self._guest.account.gid)
            set_size(read, program.message["rows"], program.message["columns"])
            program.input = os.dup(read)
            os.set_blocking(read, False)  # of both: they are one open file
            return read, slave, slave
        source = -1
        if program.message["stdin"]:
            source, program.input = os.pipe()
            os.set_blocking(program.input, False)
        read, write = os.pipe()
        os.set_blocking(read, False)
        return read, write, source

    def _open_errors(self, program: Program, output: int) -> Tuple[int, int]:
        """Open a program's error stream: where it is read, and written.

        Where it is not wanted apart it is the output, and is read there.
        """
        if not program.message["stderr"] or program.message["tty"]:
            return -1, output
        read, write = os.pipe()
        os.set_blocking(read, False)
        return read, write

    def _watch_pipe(self, program: Program, fd: int) -> None:
        self._loop.watch(
            fd, selectors.EVENT_READ, lambda _events: self._read(program, fd)
        )

    def _watch_output(self, program: Program) -> None:
        """Read its output, or leave it in its pipes while its reader is slower."""
        if program.paused == program.full:
            return
        program.paused = program.full
        for fd in program.pipes:
            if program.paused:
                self._loop.forget(fd)
            else:
                self._watch_pipe(program, fd)

    def _read(self, program: Program, fd: int) -> None:
        """Read and keep a program's output."""
        try:
            data = os.read(fd, PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a terminal whose last program has closed it (EIO)
        if not data:
            self._close_pipe(program, fd)
            return
        if not program.running:
            return  # a grandchild lives on and writes; read, so that it may
        program.keep(data, error=program.pipes[fd])
        self._watch_output(program)
        if not program.gathering:
            program.gathering = True
            self._loop.later(GATHER_SECONDS, lambda: self._gathered(program))

    def _gathered(self, program: Program) -> None:
        program.gathering = False
        self._push(program)

    def _close_pipe(self, program: Program, fd: int) -> None:
        del program.pipes[fd]
        self._loop.forget(fd)
        os.close(fd)

    def _ended(self, program: Program, code: int) -> None:
        """Report a program's end, after its last output."""
        program.pid = 0
        # Its last output is in the pipe already.  A grandchild may hold the
        # pipe open forever, so its end is not waited for.
        stop = time.monotonic() + DRAIN_SECONDS
        for fd in list(program.pipes):
            self._drain(program, fd, stop)
        self._close_input(program)
        if (
            code in KILLED
            and kernel_number("vmstat", "oom_kill") > program.killed_before
        ):
            apart = program.message["stderr"] and not program.message["tty"]
            note = MEMORY_FULL.format(kernel_number("meminfo", "MemTotal:") >> 10)
            program.keep(f"\r\n{note}\r\n".encode(), error=apart)
        if program.message["tty"]:
            for fd in list(program.pipes):
                self._close_pipe(program, fd)  # what still runs there gets SIGHUP
        self._end(program, "exited", code=max(code, -64))

    def _drain(self, program: Program, fd: int, stop: float) -> None:
        """Read what is left in a pipe, for a bounded time."""
        while time.monotonic() < stop and program.kept_bytes < LAST_OUTPUT:
            try:
                data = os.read(fd, PIECE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""  # EIO, as above
            if not data:
                self._close_pipe(program, fd)
                return
            program.keep(data, error=program.pipes[fd])

    def _end(self, program: Program, kind: str, **fields: object) -> None:
        program.result = (kind, dict(fields, program=program.number))
        self._watch_output(program)
        self._push(program)
        self._guest.program_ended()

    def _push(self, program: Program) -> None:
        """Send kept output, and at last the end, to the broker."""
        if self._table.get(program.number) is not program:
            return  # its end has been reported
        agent = self._guest.agent
        while agent.has_room:
            piece = program.take()
            if piece is None:
                break
            error, data = piece
            text = binascii.b2a_base64(data, newline=False).decode()
            apart = {"stderr": True} if error else {}
            agent.send("output", program=program.number, data=text, **apart)
        self._watch_output(program)
        if program.result and agent.has_room and not program.kept:
            kind, fields = program.result
            agent.send(kind, **fields)
            self._table.pop(program.number, None)


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Set the size of a terminal in characters."""
    most = 65535
    size = struct.pack("4H", min(rows, most), min(columns, most), 0, 0)
    with contextlib.suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


def kernel_number(file: str, word: str) -> int:
    """Return a number of a file of procfs; 0 where this kernel does not tell it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open(f"/proc/{file}", encoding="ascii") as source:
            rows = [line.split() for line in source]
        return next((int(row[1]) for row in rows if row[0] == word), 0)
    return 0
