"""The programs that the broker asked for: input, output, ends."""

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
from shims.guest.loop import log
from shims.guest.protocol import INPUT_WINDOW, OUTPUT_BYTES, PIECE_BYTES, PROGRAMS, TEXT

if TYPE_CHECKING:
    from shims.guest.guest import Guest

KEPT_OUTPUT = 65536  # bytes of a program's output kept while the broker is away
GATHER_SECONDS = 0.02  # many small writes become one message
DRAIN_SECONDS = 0.2  # from a program's end to the end of its output


class Program:
    """A program that the broker asked for, until its end has been reported."""

    def __init__(self, number: int, message: Dict[str, Any]) -> None:
        self.number = number
        self.message = message
        self.pid = 0  # 0 before the start, and after it has been reaped
        self.pipe = -1
        self.kept: Deque[bytes] = collections.deque()
        self.kept_bytes = 0
        self.dropped = 0
        self.gathering = False
        self.result: Optional[Tuple[str, Dict[str, Any]]] = None
        self.input = -1  # where its standard input is written; a terminal's master
        self.unwritten: Deque[bytes] = collections.deque()
        self.unwritten_bytes = 0
        self.input_ends = False

    @property
    def running(self) -> bool:
        """Whether it waits to be started, or has been and has not ended."""
        return self.result is None

    def keep(self, data: bytes) -> None:
        """Keep output for the broker; beyond KEPT_OUTPUT the oldest goes."""
        self.kept.append(data)
        self.kept_bytes += len(data)
        while self.kept_bytes > KEPT_OUTPUT:
            gone = self.kept.popleft()
            self.kept_bytes -= len(gone)
            self.dropped += len(gone)

    def take(self) -> bytes:
        """Return the next piece of at most OUTPUT_BYTES to send, or nothing."""
        if self.dropped:
            note = f"\n[vitrail: {self.dropped} bytes of output were lost here]\n"
            self.dropped = 0
            return note.encode()
        if not self.kept:
            return b""
        data = self.kept.popleft()
        while self.kept and len(data) + len(self.kept[0]) <= OUTPUT_BYTES:
            data += self.kept.popleft()
        if len(data) > OUTPUT_BYTES:
            self.kept.appendleft(data[OUTPUT_BYTES:])
            data = data[:OUTPUT_BYTES]
        self.kept_bytes -= len(data)
        return data


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
        """Start a program, at once or when the display is ready for it."""
        number = message["program"]
        agent = self._guest.agent
        if number in self._table:
            agent.send("failed", program=number, reason="a program of this number runs")
            return
        if len(self._table) >= PROGRAMS:
            agent.send("failed", program=number, reason=f"{PROGRAMS} programs run")
            return
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
        """Write to a program's standard input; ``end`` closes it behind that.

        The broker sends no more than INPUT_WINDOW bytes that we have not
        reported as taken.  Bytes beyond it are an error, and are dropped.
        """
        program = self._table.get(number)
        if program is None or not program.running or program.input_ends:
            return
        if program.unwritten_bytes + len(data) > INPUT_WINDOW:
            log(f"program {number}: more input than was asked for")
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

    def _write_input(self, program: Program) -> None:
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
        if not program.running:
            return
        if reason:
            self._end(program, "failed", reason=reason[:TEXT])
            return
        read, write, source = self._open_streams(program)
        try:
            process = self._guest.account.start(
                program.message["argv"],
                env=self._guest.environment(program.message),
                stdin=source,
                stdout=write,
                stderr=write,
                terminal=program.message["tty"],
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            os.close(read)
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
            for fd in {write, source} - {-1}:
                os.close(fd)
        program.pid = process.pid
        program.pipe = read
        self._guest.agent.send("started", program=program.number)
        self._write_input(program)
        self._loop.watch(
            read, selectors.EVENT_READ, lambda _events: self._read(program)
        )
        self._loop.child(process, lambda code: self._ended(program, code))

    def _open_streams(self, program: Program) -> Tuple[int, int, int]:
        """Return where its output is read, its output, and its input (-1: none).

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

    def _read(self, program: Program) -> None:
        try:
            data = os.read(program.pipe, PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""  # a terminal whose last program has closed it (EIO)
        if not data:
            self._close_pipe(program)
            return
        if self._table.get(program.number) is not program:
            return  # a grandchild lives on and writes; read, so that it may
        program.keep(data)
        if not program.gathering:
            program.gathering = True
            self._loop.later(GATHER_SECONDS, lambda: self._gathered(program))

    def _gathered(self, program: Program) -> None:
        program.gathering = False
        self._push(program)

    def _close_pipe(self, program: Program) -> None:
        if program.pipe >= 0:
            self._loop.forget(program.pipe)
            os.close(program.pipe)
            program.pipe = -1

    def _ended(self, program: Program, code: int) -> None:
        program.pid = 0
        # Its last output is in the pipe already.  A grandchild may hold the
        # pipe open forever, so its end is not waited for.
        stop = time.monotonic() + DRAIN_SECONDS
        while program.pipe >= 0 and time.monotonic() < stop:
            try:
                data = os.read(program.pipe, PIECE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""  # EIO, as above
            if data:
                program.keep(data)
            else:
                self._close_pipe(program)
        self._close_input(program)
        if program.message["tty"]:
            self._close_pipe(program)  # what still runs there gets SIGHUP
        self._end(program, "exited", code=max(code, -64))

    def _end(self, program: Program, kind: str, **fields: object) -> None:
        program.result = (kind, dict(fields, program=program.number))
        self._push(program)
        self._guest.program_ended()

    def _push(self, program: Program) -> None:
        if self._table.get(program.number) is not program:
            return  # its end has been reported
        agent = self._guest.agent
        while agent.has_room:
            data = program.take()
            if not data:
                break
            text = binascii.b2a_base64(data, newline=False).decode()
            agent.send("output", program=program.number, data=text)
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
