#!/usr/bin/python3
"""The guest's side of Vitrail: PID 1 of a micro VM, or a service elsewhere.

Guarantees
    * connects to the broker's agent port and obeys Run, Signal and PowerOff;
    * starts one ``waypipe server`` for the guest and carries each of its
      connections to the broker's display port;
    * reports starts, ends, output and every hop on the way to a window;
    * as PID 1 also mounts, names, networks, reaps and powers off.

Nothing on the other side trusts it: it runs in the sandbox.  It must not hang
either, so it is one event loop over non-blocking descriptors: every queue is
bounded, everything that waits has a deadline, and a program never waits for a
broker that is away.

The protocol is ``broker/ipc/agent.py`` in frames of ``broker/ipc/framing.py``;
a test holds the tables below against them.  Standard library only, one file,
Python 3.9.

Settings: environment ``VITRAIL_AGENT``, ``VITRAIL_DISPLAY`` and
``VITRAIL_AUDIO`` (``vsock:CID:PORT`` or ``unix:PATH``), ``VITRAIL_RUNTIME`` (directory for our
own sockets).  As PID 1 also the kernel arguments ``vitrail.name=``,
``vitrail.net=dhcp``, ``vitrail.disposable=1``, ``vitrail.orphan=SECONDS``.
``VITRAIL_SECRET`` names a file with the launch's secret in hexadecimal; a micro
VM's agent has it in its own source (``LAUNCH_SECRET``).  With one, no connection
to the broker is used before that program has proved that it launched us.
``VITRAIL_PIECES`` is the most bytes of a single write, for transports that
lose larger ones.
"""

from __future__ import annotations

import base64
import binascii
import collections
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import heapq
import hmac
import json
import os
import pwd
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import traceback
import zlib
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

VERSION = 3
HOST_CID = 2
AGENT_PORT = 6500
DISPLAY_PORT = 6501
AUDIO_PORT = 6502
LOW_PORT_OFFSET = 6000  # subtracted from these where the broker has those, too

# Message type -> its fields, as in broker/ipc/agent.py.
FROM_GUEST = {
    "hello": ("version", "waypipe", "kernel", "programs"),
    "started": ("program",),
    "failed": ("program", "reason"),
    "output": ("program", "data"),
    "exited": ("program", "code"),
    "hop": ("name", "ok", "detail"),
    "taken": ("program", "count"),
}
# Message type -> fields with their types; those in OPTIONAL may be absent.
TO_GUEST: Dict[str, Dict[str, type]] = {
    "run": {
        "program": int,
        "argv": list,
        "env": dict,
        "display": bool,
        "stdin": bool,
        "tty": bool,
        "rows": int,
        "columns": int,
    },
    "input": {"program": int, "data": str, "end": bool},
    "resize": {"program": int, "rows": int, "columns": int},
    "signal": {"program": int, "number": int},
    "poweroff": {},
    "ping": {"serving": str, "displays": int},
}
OPTIONAL: Dict[str, Any] = {
    "env": {},
    "display": True,
    "stdin": False,
    "tty": False,
    "rows": 24,
    "columns": 80,
    "data": "",
    "end": False,
}

# As in broker/core/limits.py.
FRAME_BYTES = 65536
OUTPUT_BYTES = 16384
INPUT_WINDOW = 32768  # bytes of input that wait for a program, at most
PROGRAMS = 64
STREAMS = 256
SHORT = 120
TEXT = 1000

# Our own.
KEPT_OUTPUT = 65536  # bytes of a program's output kept while the broker is away
AGENT_QUEUE = 262144  # bytes on their way to the broker; beyond, output waits
STREAM_QUEUE = 262144  # bytes of one direction of one display connection
# A read, and so a write.  Larger writes become packets in several pieces in
# newer kernels (seen: 6.12), and vhost-device-vsock 0.3 loses all but the first.
PIECE_BYTES = 28672
CONTROL_PIECE_BYTES = 3584  # as LINK_PIECE_BYTES there: no transport loses these
CONNECT_SECONDS = 10.0
RECONNECT_SECONDS = 1.0
FIRST_RECONNECT_SECONDS = 0.05
LOST_PINGS = 4  # so many times without a display at the broker: ours are dead
SILENCE_SECONDS = 6.0  # the broker pings every two seconds
FIRST_SILENCE_SECONDS = 60.0  # before it has ever pinged
HALF_CLOSED_SECONDS = 10.0
DISPLAY_SECONDS = 20.0  # from waypipe's start to its socket, under emulation
GATHER_SECONDS = 0.02  # many small writes become one message
DRAIN_SECONDS = 0.2  # from a program's end to the end of its output
GRACE_SECONDS = 2.0
ORPHAN_SECONDS = 60.0

BUSYBOX = "/usr/lib/vitrail/busybox"
RUNTIME = "/run/vitrail"
FILES_COMMANDS = (
    "xdg-open",
    "x-www-browser",
    "vitrail-open",
    "vitrail-copy",
    "vitrail-files",
)
GUEST_USER = "user"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
PATH_ROOT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def log(text: str) -> None:
    """Write a line to the console; a console that is stuck loses it."""
    try:
        os.write(2, ("vitrail: " + text + "\n").encode("utf-8", "replace"))
    except OSError:
        return


# -- the loop ---------------------------------------------------------------------


class Timer:
    """A callback at a time; ``cancel`` forgets it."""

    def __init__(self, due: float, action: Callable[[], None]) -> None:
        self.due = due
        self.action: Optional[Callable[[], None]] = action

    def cancel(self) -> None:
        """Forget the callback."""
        self.action = None

    def __lt__(self, other: "Timer") -> bool:
        return self.due < other.due


class Loop:
    """Readiness of descriptors, timers and ended children; one thread.

    A callback that raises ends that callback's work only: the error goes to
    the console and the loop goes on, for no process restarts a PID 1.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: List[Timer] = []
        self._running = True
        self._children: Dict[int, Callable[[int], None]] = {}
        self._wake_read, wake_write = os.pipe()
        for fd in (self._wake_read, wake_write):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.watch(self._wake_read, selectors.EVENT_READ, self._woken)

    def watch(self, fd: int, events: int, action: Callable[[int], None]) -> None:
        """Call ``action(events)`` on readiness; 0 events stops watching."""
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, action)
        else:
            self._selector.register(fd, events, action)

    def forget(self, fd: int) -> None:
        """Stop watching; must come before the descriptor is closed."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Call ``action`` once, after so many seconds."""
        timer = Timer(time.monotonic() + seconds, action)
        heapq.heappush(self._timers, timer)
        return timer

    def child(
        self, process: "subprocess.Popen[bytes]", ended: Callable[[int], None]
    ) -> None:
        """Call ``ended(code)`` when this child has been reaped."""
        self._children[process.pid] = ended
        # We reap with waitpid(-1), as a PID 1 must; make Popen skip that.
        process.returncode = 0
        self._reap()

    def stop(self) -> None:
        """Leave ``run`` after this round."""
        self._running = False

    def run(self) -> None:
        """Serve until ``stop``."""
        while self._running:
            for key, events in self._selector.select(self._patience()):
                self._guard(key.data, events)
            now = time.monotonic()
            while self._timers and self._timers[0].due <= now:
                timer = heapq.heappop(self._timers)
                if timer.action is not None:
                    self._guard(timer.action)

    def _patience(self) -> Optional[float]:
        while self._timers and self._timers[0].action is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0].due - time.monotonic())

    def _guard(self, action: Callable[..., None], *arguments: object) -> None:
        try:
            action(*arguments)
        except Exception:
            log("internal error: " + traceback.format_exc())

    def _woken(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self._children.pop(pid, None)
            if ended is not None:
                self._guard(ended, exit_code(status))


def exit_code(status: int) -> int:
    """Return 0..255, or minus the number of the signal that killed it."""
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


# -- addresses ----------------------------------------------------------------------


class Address:
    """``vsock:CID:PORT`` or ``unix:PATH``.

    With a secret the far end proves the launch before it is used.
    """

    def __init__(self, text: str, service: str = "", secret: bytes = b"") -> None:
        kind, _, rest = text.partition(":")
        self.text = text
        self._service = service
        self._secret = secret
        self.target: Any
        if kind == "unix" and rest:
            self.family = int(socket.AF_UNIX)
            self.target = rest
        elif kind == "vsock" and rest.count(":") == 1:
            self.family = int(socket.AF_VSOCK)
            cid, port = rest.split(":")
            self.target = (int(cid), int(port))
        else:
            raise ValueError(f"no address: {text!r} (vsock:CID:PORT or unix:PATH)")

    def connect(
        self, loop: Loop, done: "Callable[[Optional[socket.socket], int], None]"
    ) -> None:
        """Connect without blocking; then ``done(socket, 0)`` or ``done(None, errno)``."""

        def connected(sock: Optional[socket.socket], code: int) -> None:
            # guard: a guest with a secret asks for the proof
            if sock is None or not self._secret:
                done(sock, code)
            else:
                Proof(loop, sock, self._secret, self._service, done)

        self._connect(loop, connected)

    def _connect(
        self, loop: Loop, done: "Callable[[Optional[socket.socket], int], None]"
    ) -> None:
        try:
            sock = socket.socket(self.family, socket.SOCK_STREAM)
        except OSError as error:
            done(None, error.errno or errno.EIO)
            return
        sock.settimeout(0)
        code = sock.connect_ex(self.target)
        if code == 0:
            done(sock, 0)
            return
        if code != errno.EINPROGRESS:
            sock.close()
            done(None, code)
            return

        def finish(code: int) -> None:
            deadline.cancel()
            loop.forget(sock.fileno())
            if code:
                sock.close()
            done(None if code else sock, code)

        deadline = loop.later(CONNECT_SECONDS, lambda: finish(errno.ETIMEDOUT))
        loop.watch(
            sock.fileno(),
            selectors.EVENT_WRITE,
            lambda _events: finish(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)),
        )


# -- the launch's secret --------------------------------------------------------------

# As in broker/peers/launch_secret.py.
PROOF_MAGIC = b"vitrail launch 1"
NONCE_BYTES = 32
SECRET_BYTES = 32


def launch_secret(path: str) -> bytes:
    """Return the launch's secret, or nothing where there is none."""
    text = str(globals().get("LAUNCH_SECRET", ""))
    if path:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    secret = binascii.unhexlify(text)
    if secret and len(secret) != SECRET_BYTES:
        raise ValueError("a launch secret has %d bytes" % SECRET_BYTES)
    return secret


class Proof:
    """Both sides of a new connection prove that they know the launch's secret.

    A port says nothing about the program that listens there: after the broker's
    death any user of the host may.  Reads no byte beyond the answer.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        secret: bytes,
        service: str,
        done: "Callable[[Optional[socket.socket], int], None]",
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._secret = secret
        self._service = service.encode()
        self._done = done
        self._nonce = os.urandom(NONCE_BYTES)
        self._answer = b""
        self._deadline = loop.later(
            CONNECT_SECONDS, lambda: self._finish(errno.ETIMEDOUT)
        )
        try:
            sock.send(PROOF_MAGIC + self._nonce)
        except OSError as error:
            self._finish(error.errno or errno.EIO)
            return
        loop.watch(sock.fileno(), selectors.EVENT_READ, self._ready)

    def _ready(self, _events: int) -> None:
        wanted = NONCE_BYTES + hashlib.sha256().digest_size
        try:
            data = self._sock.recv(wanted - len(self._answer))
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(error.errno or errno.EIO)
            return
        self._answer += data
        if not data:
            self._finish(errno.ECONNRESET)
        elif len(self._answer) == wanted:
            self._check()

    def _check(self) -> None:
        nonces = self._nonce + self._answer[:NONCE_BYTES]
        theirs = self._mac(b"broker", nonces)
        # guard: the broker proves the launch
        if not hmac.compare_digest(theirs, self._answer[NONCE_BYTES:]):
            self._finish(errno.EACCES)
            return
        try:
            self._sock.send(self._mac(b"guest", nonces))
        except OSError as error:
            self._finish(error.errno or errno.EIO)
            return
        self._finish(0)

    def _mac(self, label: bytes, nonces: bytes) -> bytes:
        text = label + b"\0" + self._service + b"\0" + nonces
        return hmac.new(self._secret, text, "sha256").digest()

    def _finish(self, code: int) -> None:
        self._deadline.cancel()
        self._loop.forget(self._sock.fileno())
        if code:
            self._sock.close()
        if code == errno.EACCES:
            log("a program that did not launch us listens at %s" % self._service)
        self._done(None if code else self._sock, code)


# -- the agent's connection -----------------------------------------------------------


class MessageError(Exception):
    """The broker sent what we do not understand; the connection ends."""


def decode(body: bytes) -> Dict[str, Any]:
    """Return a checked message of TO_GUEST with every field set."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"no JSON: {error}") from error
    if not isinstance(message, dict) or message.get("type") not in TO_GUEST:
        raise MessageError("unknown message")
    fields = TO_GUEST[message["type"]]
    for name, kind in fields.items():
        if name not in message and name in OPTIONAL:
            message[name] = OPTIONAL[name]
        if type(message.get(name)) is not kind:
            raise MessageError(f"{message['type']}.{name} must be {kind.__name__}")
    unknown = set(message) - set(fields) - {"type"}
    if unknown:
        raise MessageError(f"unknown field in {message['type']}: {min(unknown)}")
    if message["type"] == "run":
        check_run(message)
    elif message["type"] == "input":
        try:
            message["data"] = binascii.a2b_base64(message["data"])
        except ValueError as error:
            raise MessageError(f"input.data is not base64: {error}") from error
    for name in ("rows", "columns"):
        if message.get(name, 1) < 1:
            raise MessageError(f"{message['type']}.{name} must be at least 1")
    return message


def check_run(message: Dict[str, Any]) -> None:
    """Raise MessageError unless arguments and environment can be executed."""
    words = list(message["argv"])
    for key, value in message["env"].items():
        if not key or "=" in key:
            raise MessageError("a bad name in run.env")
        words += [key, value]
    if not message["argv"] or not all(isinstance(word, str) for word in words):
        raise MessageError("run.argv and run.env must be strings, argv not empty")
    if any("\0" in word for word in words):
        raise MessageError("a NUL byte in run.argv or run.env")


class Agent:
    """The connection to the broker: framing, queue, reconnection."""

    def __init__(self, guest: "Guest", address: Address) -> None:
        self._guest = guest
        self._loop = guest.loop
        self._address = address
        self._socket: Optional[socket.socket] = None
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._wait = FIRST_RECONNECT_SECONDS
        self._last_error = 0
        self._patience: Optional[Timer] = None
        self._serving = ""
        self._heard = False  # a ping, on this connection
        self._unheard = 0  # connections in a row that ended without one
        self.lost_at = time.monotonic()

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._socket is not None

    @property
    def has_room(self) -> bool:
        """Whether the broker takes messages as fast as we make them."""
        return self.connected and len(self._outgoing) < AGENT_QUEUE

    def open(self) -> None:
        """Connect, now and again until it works."""
        self._address.connect(self._loop, self._opened)

    def send(self, kind: str, **fields: object) -> None:
        """Queue a message; lost when there is no connection."""
        if self._socket is None:
            return
        body = json.dumps(dict(fields, type=kind)).encode()
        self._outgoing += struct.pack("<I", len(body)) + body
        self._flush()

    def pinged(self, serving: str) -> None:
        """The broker is there, and says which worker of its serves us."""
        if self._serving and serving != self._serving:
            # A killed broker cannot end its streams, and vhost-device-vsock
            # drops those with bytes under way without notifying its guest.
            self._guest.cut_all()
        self._serving = serving
        self._heard, self._unheard = True, 0
        self.expect()

    def expect(self) -> None:
        """Give the broker up when it says nothing for long from now on."""
        if self._patience is not None:
            self._patience.cancel()
        seconds = SILENCE_SECONDS
        if not self._serving:
            seconds = FIRST_SILENCE_SECONDS
        elif not self._heard:
            # It may only be slow to begin; it must not have to start over for
            # each of our attempts forever.
            seconds = min(seconds * 2**self._unheard, FIRST_SILENCE_SECONDS)
        self._patience = self._loop.later(seconds, lambda: self._silent(seconds))

    def _silent(self, seconds: float) -> None:
        if not self._heard:
            self._unheard = min(self._unheard + 1, 8)
        self._lost(f"it said nothing for {seconds:.0f} s")

    def _opened(self, sock: Optional[socket.socket], code: int) -> None:
        if sock is None:
            if code != self._last_error:
                log(f"no broker at {self._address.text}: {os.strerror(code)}")
            self._last_error = code
            self._again()
            return
        self._socket = sock
        self._heard = False
        self._last_error = 0
        self._wait = FIRST_RECONNECT_SECONDS
        self._incoming.clear()
        self._outgoing.clear()
        self._watch()
        self._guest.agent_connected()

    def _again(self) -> None:
        self._loop.later(self._wait, self.open)
        self._wait = min(self._wait * 2, RECONNECT_SECONDS)

    def _lost(self, why: str) -> None:
        if self._socket is None:
            return
        log(f"lost the broker: {why}")
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        self._socket = None
        self.lost_at = time.monotonic()
        self._wait = RECONNECT_SECONDS
        self._again()

    def _watch(self) -> None:
        assert self._socket is not None
        events = selectors.EVENT_READ
        if self._outgoing:
            events |= selectors.EVENT_WRITE
        self._loop.watch(self._socket.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._flush()
        if events & selectors.EVENT_READ and self._socket is not None:
            self._read()

    def _flush(self) -> None:
        if self._socket is None:
            return
        full = not self.has_room
        try:
            while self._outgoing:
                sent = self._socket.send(
                    memoryview(self._outgoing)[:CONTROL_PIECE_BYTES].tobytes()
                )
                del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(str(error))
            return
        self._watch()
        if full and self.has_room:
            self._loop.later(0, self._guest.programs.push_all)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(PIECE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(str(error))
            return
        if not data:
            self._lost("it closed the connection")
            return
        self._incoming += data
        try:
            for body in self._frames():
                self._guest.obey(decode(body))
        except MessageError as error:
            self._lost(f"a bad message: {error}")
        except Exception:
            log("internal error: " + traceback.format_exc())
            self._lost("our own mistake")

    def _frames(self) -> List[bytes]:
        frames = []
        while len(self._incoming) >= 4:
            (size,) = struct.unpack_from("<I", self._incoming)
            if not 0 < size <= FRAME_BYTES:
                raise MessageError(f"a frame of {size} bytes")
            if len(self._incoming) < 4 + size:
                break
            frames.append(bytes(self._incoming[4 : 4 + size]))
            del self._incoming[: 4 + size]
        return frames


# -- programs ---------------------------------------------------------------------------


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


def files_tool() -> bytes:
    """Return the program for files and links: packed into us, or beside us."""
    packed = globals().get("FILES_TOOL", "")
    if packed:
        return zlib.decompress(base64.b64decode(packed))
    folder = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(folder, "vitrail_files.py"), "rb") as source:
        return source.read()


def write_file(path: str, data: bytes, mode: int) -> None:
    """Write a file of ours, in place of one that was there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.chmod(path, mode)


def set_size(terminal: int, rows: int, columns: int) -> None:
    """Set the size of a terminal in characters."""
    most = 65535
    size = struct.pack("4H", min(rows, most), min(columns, most), 0, 0)
    with contextlib.suppress(OSError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


def take_terminal() -> None:
    """In the child: make standard input the terminal of its session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def kill_group(pid: int, signum: int) -> None:
    """Send a signal to a process group that may have gone."""
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):
        return


class Account:
    """Who runs programs: the guest's unprivileged user, or our own user."""

    def __init__(self) -> None:
        self._switch: Dict[str, Any] = {}
        try:
            entry = (
                pwd.getpwnam(GUEST_USER)
                if os.geteuid() == 0
                else pwd.getpwuid(os.geteuid())
            )
        except KeyError:
            entry = pwd.struct_passwd(
                (str(os.geteuid()), "x", os.geteuid(), os.getegid(), "", "/", "/bin/sh")
            )
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.name, self.home, self.shell = entry.pw_name, entry.pw_dir, entry.pw_shell
        if self.uid != os.geteuid():
            groups = os.getgrouplist(self.name, self.gid)
            self._switch = {"user": self.uid, "group": self.gid, "extra_groups": groups}

    def start(
        self,
        argv: List[str],
        env: Dict[str, str],
        stdout: int,
        stderr: int,
        stdin: int = -1,
        *,
        terminal: bool = False,
    ) -> "subprocess.Popen[bytes]":
        """Start a program as this user in a session of its own."""
        path = shutil.which(argv[0], path=env.get("PATH", PATH))
        if path is None:
            raise FileNotFoundError(errno.ENOENT, "no such program")
        return subprocess.Popen(
            argv,
            executable=path,
            env=env,
            cwd=self.home if os.path.isdir(self.home) else "/",
            stdin=subprocess.DEVNULL if stdin < 0 else stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            # We have one thread, so that what runs between fork and exec is safe.
            preexec_fn=take_terminal if terminal else None,  # noqa: PLW1509
            **self._switch,
        )


# -- the display ------------------------------------------------------------------------


class Direction:
    """Bytes on their way from one socket to the other."""

    def __init__(self, pieces: int) -> None:
        self._pieces = pieces  # bytes of a read, and so of a write
        self.queue: Deque[bytes] = collections.deque()
        self.size = 0
        self.ended = False  # the source has ended
        self.closed = False  # and we passed it on

    def move(self, source: socket.socket, sink: socket.socket) -> None:
        """Read and write as much as possible without blocking.  Raises OSError."""
        for _ in range(8):  # then it is another connection's turn
            if not self.ended and self.size < STREAM_QUEUE:
                self._fill(source)
            before = self.size
            self._drain(sink)
            if self.size or not before:
                break

    def _fill(self, source: socket.socket) -> None:
        try:
            data = source.recv(self._pieces)
        except BlockingIOError:
            return
        if data:
            self.queue.append(data)
            self.size += len(data)
        else:
            self.ended = True

    def _drain(self, sink: socket.socket) -> None:
        try:
            while self.queue:
                sent = sink.send(self.queue[0])
                self.size -= sent
                rest = self.queue.popleft()[sent:]
                if rest:
                    self.queue.appendleft(rest)
        except BlockingIOError:
            return
        if self.ended and not self.closed and not self.queue:
            self.closed = True
            try:
                sink.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise


class Pair:
    """One display connection: waypipe's socket and the broker's."""

    def __init__(
        self,
        loop: Loop,
        near: socket.socket,
        closed: "Callable[[Pair], None]",
        pieces: int,
    ) -> None:
        self._loop = loop
        self._near = near
        self._far: Optional[socket.socket] = None
        self._closed = closed
        self._out = Direction(pieces)
        self._back = Direction(PIECE_BYTES)
        self._patience: Optional[Timer] = None
        self.unseen = 0  # pings in a row in which the broker had no display

    @property
    def joined(self) -> bool:
        """Whether the broker's side is there."""
        return self._far is not None

    def join(self, far: socket.socket) -> None:
        """Carry between waypipe and this connection from now on."""
        self._far = far
        self._watch()

    def close(self) -> None:
        """End both sides."""
        if self._patience is not None:
            self._patience.cancel()
        for sock in (self._near, self._far):
            if sock is not None and sock.fileno() >= 0:
                self._loop.forget(sock.fileno())
                sock.close()
        self._closed(self)

    def _ready(self, _events: int) -> None:
        assert self._far is not None
        try:
            self._out.move(self._near, self._far)
            self._back.move(self._far, self._near)
        except OSError:
            # One side has gone; the other learns it from the close.
            self.close()
            return
        if self._out.closed and self._back.closed:
            self.close()
            return
        if self._patience is None and (self._out.closed or self._back.closed):
            # Hybrid vsock makes a half-close a full one, so no end may follow.
            self._patience = self._loop.later(HALF_CLOSED_SECONDS, self.close)
        self._watch()

    def _watch(self) -> None:
        assert self._far is not None
        sides = (
            (self._near, self._out, self._back),
            (self._far, self._back, self._out),
        )
        for sock, reads, writes in sides:
            events = 0
            if not reads.ended and reads.size < STREAM_QUEUE:
                events |= selectors.EVENT_READ
            if writes.queue:
                events |= selectors.EVENT_WRITE
            self._loop.watch(sock.fileno(), events, self._ready)


class Carrier:
    """Accepts connections at a socket and carries each to a port of the broker."""

    def __init__(self, guest: "Guest", hop: str, path: str, address: Address) -> None:
        self._hop = hop
        self._guest = guest
        self._loop = guest.loop
        self._address = address
        self._pairs: List[Pair] = []
        self.path = path
        if os.path.exists(path):
            os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        os.chown(path, guest.account.uid, guest.account.gid)
        os.chmod(path, 0o600)
        self._listener.listen(64)
        self._listener.settimeout(0)
        self._watch()

    def _watch(self) -> None:
        # At the limit the next connection waits in the backlog.
        events = selectors.EVENT_READ if len(self._pairs) < STREAMS else 0
        self._loop.watch(self._listener.fileno(), events, self._accept)

    def _accept(self, _events: int) -> None:
        try:
            near, _ = self._listener.accept()
        except OSError:
            return
        near.settimeout(0)
        pair = Pair(self._loop, near, self._gone, self._guest.settings.pieces)
        self._pairs.append(pair)
        self._watch()
        self._address.connect(
            self._loop, lambda far, code: self._connected(pair, far, code)
        )

    def _connected(self, pair: Pair, far: Optional[socket.socket], code: int) -> None:
        if far is None:
            why = os.strerror(code)
            what = f"the broker's {self._hop} port: {why}"
            self._guest.hop(self._hop, what, ok=False)
            pair.close()
            return
        self._guest.hop(self._hop, ok=True)
        pair.join(far)

    def counted(self, number: int) -> None:
        """The broker has so many of them."""
        for pair in [pair for pair in self._pairs if pair.joined]:
            pair.unseen = 0 if number else pair.unseen + 1
            if pair.unseen >= LOST_PINGS:
                pair.close()

    def cut_all(self) -> None:
        """End every connection that is carried; new ones may come."""
        for pair in [pair for pair in self._pairs if pair.joined]:
            pair.close()

    def _gone(self, pair: Pair) -> None:
        if pair in self._pairs:
            self._pairs.remove(pair)
            self._watch()


class Display:
    """The guest's one waypipe server and its Wayland socket.

    One server for all programs, and each program our own child beside it: so
    exit codes, signals and output are the program's own, a second program
    needs no second server, and the server is up before the first is asked for.
    """

    NAME = "wayland-0"

    def __init__(self, guest: "Guest", carrier: Carrier) -> None:
        self._guest = guest
        self._loop = guest.loop
        self._carrier = carrier
        self._process = 0
        self._ready = False
        self._waiting: List[Callable[[str], None]] = []
        self._stderr = -1
        self._said = b""
        self._keep_alive = -1
        self._deadline = 0.0

    @property
    def path(self) -> str:
        """The Wayland socket that waypipe makes."""
        return os.path.join(self._guest.session_dir, self.NAME)

    def when_ready(self, action: Callable[[str], None]) -> None:
        """Call ``action("")`` when programs can connect, or with the reason not."""
        if self._ready and self._process:
            action("")
            return
        self._waiting.append(action)
        self.start()

    def start(self) -> None:
        """Start waypipe unless it runs."""
        if self._process:
            return
        for leftover in (self.path, self.path + ".lock"):
            if os.path.lexists(leftover):
                os.unlink(leftover)
        # waypipe lives as long as its command; this one waits for our end.
        feed_read, feed_write = os.pipe()
        err_read, err_write = os.pipe()
        os.set_blocking(err_read, False)
        argv = [
            "waypipe",
            "--compress",
            "none",
            "--no-gpu",
            "--socket",
            self._carrier.path,
        ]
        argv += ["--display", self.NAME, "server", "--", "cat"]
        try:
            process = self._guest.account.start(
                argv,
                env=self._guest.base_environment(),
                stdin=feed_read,
                stdout=err_write,
                stderr=err_write,
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(feed_write)
            os.close(err_read)
            missing = isinstance(error, FileNotFoundError)
            why = (
                "is not installed in the guest" if missing else f"cannot start: {error}"
            )
            self._settle(f"waypipe {why}")
            return
        finally:
            os.close(feed_read)
            os.close(err_write)
        self._process, self._stderr, self._keep_alive = (
            process.pid,
            err_read,
            feed_write,
        )
        self._said, self._ready = b"", False
        self._deadline = time.monotonic() + DISPLAY_SECONDS
        self._loop.watch(err_read, selectors.EVENT_READ, lambda _events: self._listen())
        self._loop.child(process, self._ended)
        self._look()

    def counted(self, displays: int) -> None:
        """The broker has so many displays of ours.

        Of a stream that was lost on its way (a killed relay's, in
        vhost-device-vsock) we get no notice; its program would wait forever.
        """
        self._carrier.counted(displays)

    def stop(self) -> None:
        """End waypipe, if it runs."""
        if self._process:
            kill_group(self._process, signal.SIGTERM)

    def _look(self) -> None:
        """Wait for the socket; there is no message from waypipe to wait for."""
        if not self._process or self._ready:
            return
        if os.path.exists(self.path):
            self._settle("")
        elif time.monotonic() > self._deadline:
            self._settle(f"waypipe made no socket in {DISPLAY_SECONDS:.0f} s")
            self.stop()
        else:
            self._loop.later(0.02, self._look)

    def _settle(self, reason: str) -> None:
        self._ready = not reason
        self._guest.hop("waypipe", reason, ok=not reason)
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            action(reason)

    def _listen(self) -> None:
        try:
            data = os.read(self._stderr, PIECE_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.forget(self._stderr)
            os.close(self._stderr)
            self._stderr = -1
            return
        self._said = (self._said + data)[-4096:]

    def _ended(self, code: int) -> None:
        if self._stderr >= 0:
            self._listen()
        if self._stderr >= 0:
            self._loop.forget(self._stderr)
            os.close(self._stderr)
            self._stderr = -1
        os.close(self._keep_alive)
        self._process = 0
        if self._guest.leaving:
            return
        said = self._said.decode("utf-8", "replace").strip()[-TEXT // 2 :]
        self._settle(f"waypipe ended with code {code}: {said or 'it said nothing'}")


# -- the machine, when we are PID 1 --------------------------------------------------------


MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MOUNTS = (
    ("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""),
    ("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"),
    (
        "devpts",
        "/dev/pts",
        "devpts",
        MS_NOSUID | MS_NOEXEC,
        "gid=5,mode=620,ptmxmode=666",
    ),
    ("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
)
LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
RB_POWER_OFF = 0x4321FEDC
UDHCPC = """#!/bin/sh
# Called by udhcpc with the server's answer.
B=%(busybox)s
case "$1" in
deconfig) $B ip link set "$interface" up ;;
bound|renew)
    $B ip link set "$interface" up ${mtu:+mtu $mtu}
    $B ip addr flush dev "$interface"
    $B ip addr add "$ip/${mask:-24}" dev "$interface"
    for gateway in $router; do
        # The gateway may lie outside the address's network.
        $B ip route add "$gateway" dev "$interface" 2>/dev/null
        $B ip route replace default via "$gateway" dev "$interface"
        break
    done
    : >/etc/resolv.conf
    # vitrail.dns on the kernel's command line: a resolver that DHCP cannot name.
    for server in %(dns)s $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
    ;;
esac
"""


class Machine:
    """What a PID 1 does besides: mounts, names, network, power."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def set_up(self) -> None:
        """Make the machine usable.  What fails is logged, and we go on."""
        os.umask(0o022)
        os.environ["PATH"] = PATH_ROOT
        for source, target, kind, flags, options in MOUNTS:
            if not os.path.ismount(target):
                self._mount(source, target, kind, flags, options)
        for source, target in LINKS:
            if not os.path.lexists(target):
                os.symlink(source, target)
        os.set_blocking(2, False)  # a stuck console must not stop us
        self._promise_memory()
        self._link_up("lo")

    def _promise_memory(self) -> None:
        """Let programs ask for more memory than there is.

        foot's pools are 512 MiB and nearly empty; waypipe asks for as much to
        mirror them, which a small machine refuses by the kernel's default rule.
        """
        try:
            with open("/proc/sys/vm/overcommit_memory", "w", encoding="ascii") as knob:
                knob.write("1")
        except OSError as error:
            log(f"overcommit: {error}")

    def name(self, name: str) -> None:
        """Set the host name and make it resolve."""
        try:
            socket.sethostname(name)
            with open("/etc/hosts", "w", encoding="ascii") as hosts:
                hosts.write(f"127.0.0.1 localhost {name}\n::1 localhost\n")
            with open("/etc/hostname", "w", encoding="ascii") as file:
                file.write(name + "\n")
        except (OSError, ValueError) as error:
            log(f"host name: {error}")

    def identify(self) -> None:
        """Give this boot a machine id; an image has none."""
        try:
            with open("/proc/sys/kernel/random/uuid", encoding="ascii") as source:
                number = source.read().replace("-", "")
            with open("/etc/machine-id", "w", encoding="ascii") as target:
                target.write(number)
        except OSError as error:
            log(f"machine id: {error}")

    def network(self, guest: "Guest", dns: str) -> None:
        """Ask for an address on the first interface, in the background."""
        names = sorted(n for n in os.listdir("/sys/class/net") if n != "lo")
        busybox = BUSYBOX if os.path.exists(BUSYBOX) else shutil.which("busybox")
        if not names or not busybox:
            missing = "busybox" if names else "network interface"
            guest.hop("network", f"there is no {missing} in the guest", ok=False)
            return
        self._link_up(names[0])
        script = os.path.join(RUNTIME, "udhcpc")
        with open(script, "w", encoding="ascii") as file:
            file.write(UDHCPC % {"busybox": busybox, "dns": dns})
        os.chmod(script, 0o755)
        process = subprocess.Popen(
            [busybox, "udhcpc", "-i", names[0], "-s", script, "-n", "-q", "-O", "mtu",
             "-t", "10", "-T", "1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

        def ended(code: int) -> None:
            guest.hop("network", "" if code == 0 else "no answer to DHCP", ok=code == 0)

        guest.loop.child(process, ended)

    def power_off(self) -> None:
        """Switch off; does not return."""
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)
        os.sync()
        self._libc.reboot(RB_POWER_OFF)
        # Not reached where the machine can switch itself off.  The kernel's
        # reboot=t and panic=-1 end the others.
        with open("/proc/sysrq-trigger", "w", encoding="ascii") as trigger:
            trigger.write("b")
        time.sleep(60)

    def _mount(
        self, source: str, target: str, kind: str, flags: int, options: str
    ) -> None:
        os.makedirs(target, exist_ok=True)
        done = self._libc.mount(
            source.encode(), target.encode(), kind.encode(), flags, options.encode()
        )
        if done != 0:
            log(f"mount {target}: {os.strerror(ctypes.get_errno())}")

    def _link_up(self, name: str) -> None:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                ask = struct.pack("16sH14x", name.encode(), 0)
                answer = fcntl.ioctl(sock, SIOCGIFFLAGS, ask)
                (flags,) = struct.unpack_from("16xH", answer)
                fcntl.ioctl(
                    sock,
                    SIOCSIFFLAGS,
                    struct.pack("16sH14x", name.encode(), flags | IFF_UP),
                )
        except OSError as error:
            log(f"interface {name}: {error}")


# -- all together ----------------------------------------------------------------------------


def take_address(text: str) -> str:
    """Return an IPv4 address as text, or nothing: it goes into a script."""
    try:
        return socket.inet_ntoa(socket.inet_aton(text)) if text else ""
    except OSError:
        log(f"vitrail.dns is no address: {text!r}")
        return ""


class Settings:
    """Where the broker is and what kind of guest this is."""

    def __init__(self, environ: Dict[str, str], cmdline: str) -> None:
        words = dict(
            word[8:].partition("=")[::2]
            for word in cmdline.split()
            if word.startswith("vitrail.")
        )
        self.secret = launch_secret(environ.get("VITRAIL_SECRET", ""))
        self._environ = environ
        self.agent = self._address("VITRAIL_AGENT", AGENT_PORT, "vitrail.Agent")
        self.display = self._address("VITRAIL_DISPLAY", DISPLAY_PORT, "vitrail.Display")
        self.audio = self._address("VITRAIL_AUDIO", AUDIO_PORT, "vitrail.Audio")
        self.runtime = environ.get("VITRAIL_RUNTIME", RUNTIME)
        pieces = environ.get("VITRAIL_PIECES", "")
        self.pieces = PIECE_BYTES
        if pieces.isdigit() and int(pieces):
            self.pieces = min(int(pieces), PIECE_BYTES)
        self.name = words.get("name", "")
        self.network = words.get("net", "")
        self.dns = take_address(words.get("dns", ""))
        self.disposable = words.get("disposable", "") == "1"
        orphan = words.get("orphan", "")
        self.orphan = float(orphan) if orphan.isdigit() else ORPHAN_SECONDS

    def _address(self, variable: str, port: int, service: str) -> Address:
        if globals().get("LOW_PORTS", False):
            port -= LOW_PORT_OFFSET
        text = self._environ.get(variable, f"vsock:{HOST_CID}:{port}")
        return Address(text, service, self.secret)


class Guest:
    """The guest: its parts, and what happens between them."""

    def __init__(self, settings: Settings, machine: Optional[Machine]) -> None:
        self.settings = settings
        self.machine = machine
        self.leaving = False
        self._hops: Dict[str, Tuple[bool, str]] = {}
        self._waypipe = ""
        self._waypipe_known = False
        self._greeted = False
        self._sound_config = ""
        self._sound_server = ""
        self._tools = ""
        self.loop = Loop()
        self.account = Account()
        os.makedirs(settings.runtime, mode=0o755, exist_ok=True)
        self.session_dir = self._make_session_dir()
        self._tools = self._make_tools()
        self.agent = Agent(self, settings.agent)
        carrier = Carrier(
            self, "display", os.path.join(settings.runtime, "display"), settings.display
        )
        sound = Carrier(self, "audio", self._sound_path(), settings.audio)
        self._carriers = (carrier, sound)
        self.display = Display(self, carrier)
        self.programs = Programs(self)

    def start(self) -> None:
        """Begin everything that needs no order from the broker."""
        self.agent.open()
        self._ask_version()
        if shutil.which("waypipe", path=self.base_environment()["PATH"]):
            self.display.start()
        if self.machine is not None and self.settings.network == "dhcp":
            self.machine.network(self, self.settings.dns)
        if self.machine is not None and self.settings.disposable:
            self.loop.later(1.0, self._check_orphan)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.loop.later(0, self.power_off))

    # -- what the parts report

    def agent_connected(self) -> None:
        """Say hello, then everything that was waiting."""
        self._greeted = False
        if self._waypipe_known:
            self._greet()

    def program_ended(self) -> None:
        """Go on leaving when the last program has ended."""
        if self.leaving and not self.programs.running():
            self._finish()

    def hop(self, name: str, detail: str = "", *, ok: bool) -> None:
        """Report a step on the way to a window; the newest of a name is kept."""
        if self._hops.get(name) == (ok, detail):
            return
        self._hops[name] = (ok, detail)
        if not ok:
            log(f"{name}: {detail}")
        if self._greeted:
            self._send_hop(name)

    def obey(self, message: Dict[str, Any]) -> None:
        """Do what the broker asks."""
        kind = message["type"]
        if kind == "run":
            self.programs.run(message)
        elif kind == "signal":
            self.programs.signal(message["program"], message["number"])
        elif kind == "input":
            self.programs.feed(message["program"], message["data"], end=message["end"])
        elif kind == "resize":
            self.programs.resize(
                message["program"], message["rows"], message["columns"]
            )
        elif kind == "poweroff":
            self.power_off()
        elif kind == "ping":
            self.agent.pinged(message["serving"])
            self.display.counted(message["displays"])

    def cut_all(self) -> None:
        """End every connection that is carried to the broker."""
        for carrier in self._carriers:
            carrier.cut_all()

    # -- environment of programs

    def base_environment(self) -> Dict[str, str]:
        """Return what every program of the guest's user finds."""
        env = {
            "PATH": f"{self._tools}:{PATH}" if self._tools else PATH,
            "HOME": self.account.home,
            "USER": self.account.name,
            "LOGNAME": self.account.name,
            "SHELL": self.account.shell or "/bin/sh",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": self.session_dir,
            "PULSE_CLIENTCONFIG": self._sound_config,
            # For clients that are not libpulse and read no configuration.
            "PULSE_SERVER": self._sound_server,
        }
        if self.machine is None:
            # A service or a container has an environment of its own.
            env = {
                **env,
                **{k: v for k, v in os.environ.items() if k != "XDG_RUNTIME_DIR"},
            }
        if self._tools:
            if self._tools not in env["PATH"].split(":"):
                env["PATH"] = f"{self._tools}:{env['PATH']}"
            env["BROWSER"] = os.path.join(self._tools, "xdg-open")
        return env

    def environment(self, message: Dict[str, Any]) -> Dict[str, str]:
        """Return the environment of a program that the broker asked for."""
        env = self.base_environment()
        if message["display"]:
            # There is no X server, so toolkits need not look for one.
            env.update(
                WAYLAND_DISPLAY=Display.NAME,
                XDG_SESSION_TYPE="wayland",
                GDK_BACKEND="wayland",
                QT_QPA_PLATFORM="wayland",
                SDL_VIDEODRIVER="wayland",
                MOZ_ENABLE_WAYLAND="1",
            )
        env.update(message["env"])
        return env

    # -- the end

    def power_off(self) -> None:
        """End every program, then switch off (PID 1) or end ourselves."""
        if self.leaving:
            return
        self.leaving = True
        if not self.programs.running():
            self._finish()
            return
        self.programs.signal_all(signal.SIGTERM)
        self.loop.later(GRACE_SECONDS, lambda: self.programs.signal_all(signal.SIGKILL))
        self.loop.later(GRACE_SECONDS + 1.0, self._finish)

    def _finish(self) -> None:
        self.display.stop()
        # One more round, so that the last message leaves.
        self.loop.later(0.05, self.loop.stop)

    def _check_orphan(self) -> None:
        away = 0.0 if self.agent.connected else time.monotonic() - self.agent.lost_at
        if away >= self.settings.orphan and not self.programs.running():
            log(f"no broker for {away:.0f} s and nothing runs: switching off")
            self.power_off()
            return
        self.loop.later(1.0, self._check_orphan)

    # -- small parts

    def _make_session_dir(self) -> str:
        if os.geteuid() != 0 or self.machine is None:
            path = os.path.join(self.settings.runtime, "session")
        else:
            path = f"/run/user/{self.account.uid}"
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chown(path, self.account.uid, self.account.gid)
        return path

    def _make_tools(self) -> str:
        """Make the commands for files and links; returns their directory.

        Under the names that programs know (xdg-open, $BROWSER), before those of
        the system: addresses and files are opened by a rule, elsewhere.
        """
        folder = os.path.join(self.settings.runtime, "bin")
        try:
            source = files_tool()
            os.makedirs(folder, mode=0o755, exist_ok=True)
            tool = os.path.join(self.settings.runtime, "vitrail_files.py")
            write_file(tool, source, 0o644)
            self._keep_secret()
            for name in FILES_COMMANDS:
                verb = '"$@"' if name == "vitrail-files" else f'{name} "$@"'
                script = f"#!/bin/sh\nexec python3 -I {tool} {verb}\n"
                write_file(os.path.join(folder, name), script.encode(), 0o755)
        except (OSError, ValueError, zlib.error) as error:
            log(f"no commands for files and links: {error}")
            return ""
        return folder

    def _keep_secret(self) -> None:
        """Put the launch's secret where the other programs of ours find it.

        Readable for all of the guest, which is one party to the broker: what it
        keeps out is a program of another user on the host.
        """
        path = os.path.join(self.settings.runtime, "launch-secret")
        if self.settings.secret:
            write_file(path, self.settings.secret.hex().encode(), 0o444)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _sound_path(self) -> str:
        """Make the place where libpulse looks; returns the socket's path.

        The server is on another machine: a client that believes otherwise
        offers it shared memory, which nothing carries.
        """
        path = os.path.join(self.session_dir, "pulse")
        os.makedirs(path, mode=0o700, exist_ok=True)
        os.chown(path, self.account.uid, self.account.gid)
        socket_path = os.path.join(path, "native")
        self._sound_config = os.path.join(self.settings.runtime, "pulse.conf")
        self._sound_server = f"unix:{socket_path}"
        with open(self._sound_config, "w", encoding="utf-8") as file:
            file.write(
                f"default-server = unix:{socket_path}\n"
                "autospawn = no\nenable-shm = no\nenable-memfd = no\n"
            )
        return socket_path

    def _ask_version(self) -> None:
        path = shutil.which("waypipe", path=self.base_environment()["PATH"])
        if path is None:
            self.hop("waypipe", "waypipe is not installed in the guest", ok=False)
            self._version_known("")
            return
        read, write = os.pipe()
        process = subprocess.Popen(
            [path, "--version"], stdin=subprocess.DEVNULL, stdout=write, stderr=write
        )
        os.close(write)
        os.set_blocking(read, False)

        def ended(_code: int) -> None:
            try:
                said = os.read(read, 4096).decode("utf-8", "replace")
            except BlockingIOError:
                said = ""
            os.close(read)
            first = said.split("\n")[0].split()
            self._version_known(first[1] if len(first) > 1 else "unknown")

        self.loop.child(process, ended)

    def _version_known(self, version: str) -> None:
        self._waypipe = version[:SHORT]
        self._waypipe_known = True
        if self.agent.connected and not self._greeted:
            self._greet()

    def _greet(self) -> None:
        self._greeted = True
        self.agent.send(
            "hello",
            version=VERSION,
            waypipe=self._waypipe,
            kernel=os.uname().release[:SHORT],
            programs=self.programs.running(),
        )
        self.agent.expect()
        for name in list(self._hops):
            self._send_hop(name)
        self.programs.push_all()

    def _send_hop(self, name: str) -> None:
        ok, detail = self._hops[name]
        self.agent.send("hop", name=name, ok=ok, detail=detail[:TEXT])


def main() -> int:
    """Serve until power off, or until the broker or a signal ends us."""
    machine = Machine() if os.getpid() == 1 else None
    cmdline = ""
    if machine is not None:
        machine.set_up()
        with open("/proc/cmdline", encoding="ascii", errors="replace") as file:
            cmdline = file.read()
    settings = Settings(dict(os.environ), cmdline)
    if machine is not None:
        machine.identify()
        if settings.name:
            machine.name(settings.name)
    guest = Guest(settings, machine)
    guest.start()
    log("the guest agent is up")
    guest.loop.run()
    return 0


def run() -> None:
    """Run ``main``; whatever happens, a PID 1 ends by switching off."""
    try:
        code = main()
    except Exception:
        log("fatal: " + traceback.format_exc())
        code = 1
    if os.getpid() == 1:
        Machine().power_off()
    sys.exit(code)


if __name__ == "__main__":
    run()
