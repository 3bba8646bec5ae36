"""Calls: ``vitrail-call`` asks for a service of another sandbox, ``serve`` runs one.

Behind the broker's answer both programs frame the stream for each other, and nothing
between them reads it: a byte for the kind and four for a length (``>BI``), then so
many bytes.  A frame of data without bytes is the end of that direction, since some
machines' sockets cannot be half-closed; a frame of the exit code is the last one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
from typing import TYPE_CHECKING

from shims.files.connection import PIECE_BYTES, Connection, tell
from shims.files.ports import PORT_SERVICE, serve_port
from shims.files.protocol import TransferError, frame
from shims.files.services import find_service
from shims.files.ssh_agent import AGENT_SERVICE, serve_own_agent

if TYPE_CHECKING:
    import threading
    from typing import Callable, Dict, List, Optional

CALL_HEADER = struct.Struct(">BI")
CALL_DATA, CALL_EXIT = 0, 1
COPY_PIECE = 1 << 18
PIPE_BYTES = 1 << 20
EXIT_NOT_STARTED, EXIT_NOT_FOUND = 126, 127  # as of a shell
EXIT_BROKEN = 125  # the call was refused, or ended without an exit code
OWN_DESKTOP = "dom0"  # the user's, as Qubes has it
CALL_USAGE = "usage: vitrail-call [--target SANDBOX] SERVICE [ARGUMENT]"


class CallStream:
    """The frames of one call."""

    def __init__(self, connection: Connection) -> None:
        import threading

        self._socket = connection.socket
        self._reader = connection.reader
        vsock = self._socket.family == socket.AF_VSOCK
        self._piece = PIECE_BYTES - CALL_HEADER.size if vsock else COPY_PIECE
        self._lock = threading.Lock()

    def send_from(self, fd: int, wake: int = -1) -> None:
        """Send what can be read from ``fd`` until its end, then the end of data.

        ``wake``: once it is readable, only what is there already is sent.
        """
        watched = [fd] if wake < 0 else [fd, wake]
        while True:
            if wake >= 0:
                ready = select.select(watched, [], [])[0]
                if fd not in ready and not select.select([fd], [], [], 0)[0]:
                    break
            data = os.read(fd, self._piece)
            if not data:
                break
            self._send(CALL_DATA, data)
        self._send(CALL_DATA, b"")

    def send_code(self, code: int) -> None:
        """Send the exit code, the last frame."""
        self._send(CALL_EXIT, bytes([code & 0xFF]))

    def _send(self, kind: int, data: bytes) -> None:
        with self._lock:
            if len(data) < PIECE_BYTES:
                self._socket.sendall(CALL_HEADER.pack(kind, len(data)) + data)
            else:
                self._socket.sendall(CALL_HEADER.pack(kind, len(data)))
                self._socket.sendall(data)

    def receive_to(self, fd: int, ended: Callable[[], None]) -> Optional[int]:
        """Write received data to ``fd`` until the exit code, and return that.

        ``ended`` is called at the end of data.  None: the stream broke off.
        """
        open_, buffer = True, memoryview(bytearray(COPY_PIECE))
        while True:
            head = self._reader.read(CALL_HEADER.size)
            if len(head) < CALL_HEADER.size:
                return None
            kind, left = CALL_HEADER.unpack(head)
            if kind == CALL_EXIT and left == 1:
                code = self._reader.read(1)
                return code[0] if code else None
            if kind != CALL_DATA:
                return None
            if not left:
                ended()
                open_ = False
            while left:
                got = self._reader.readinto1(buffer[: min(left, COPY_PIECE)])
                if not got:
                    return None
                left -= got
                open_ = open_ and write_all(fd, buffer[:got])


def write_all(fd: int, data: memoryview) -> bool:
    """Write all of it; returns whether its reader is still there."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return False
    return True


def ask_call(words: List[str]) -> int:
    """``vitrail-call [--target SANDBOX] SERVICE [ARGUMENT]``."""
    target = ""
    if words[:1] in (["--target"], ["-t"]) and len(words) > 1:
        target, words = words[1], words[2:]
    if words[:1] == ["--"]:
        words = words[1:]
    if not words or words[0].startswith("-") or len(words) > 2:
        raise TransferError(CALL_USAGE)
    return call_service(target, words[0], words[1] if len(words) > 1 else "")


def call_service(
    target: str, service: str, argument: str, source: int = 0, sink: int = 1
) -> int:
    """Call a service with two descriptors as its input and output; returns its code."""
    try:
        connection = Connection("VITRAIL_CALL")
        ask = {"type": "call", "service": service, "argument": argument}
        connection.send(frame(dict(ask, target=target)))
        connection.wait("go")
    except TransferError as error:
        error.code = EXIT_BROKEN
        raise
    stream = CallStream(connection)
    start_thread(lambda: stream.send_from(source))

    closing = [sink] if sink > 2 else []

    def ended() -> None:
        while closing:
            os.close(closing.pop())

    code = stream.receive_to(sink, ended)
    ended()
    connection.socket.close()
    if code is None:
        tell("vitrail: the call was broken off")
        return EXIT_BROKEN
    return code


def start_thread(work: Callable[[], None]) -> threading.Thread:
    """Run in a thread; the end of the connection shows in the other direction."""

    def run() -> None:
        # The far end has gone: the reader of the stream reports it.
        with contextlib.suppress(OSError):
            work()

    import threading

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def serve_call(words: List[str]) -> int:
    """``serve TOKEN …``: run the service that a call of another sandbox asks for.

    The agent reads the other words: the user, and the service's full name.
    """
    connection = Connection("VITRAIL_CALL")
    connection.send(frame({"type": "take", "token": words[0]}))
    return serve(connection)


def serve_here(words: List[str]) -> int:
    """``serve-here DESCRIPTOR``: the same, on a connection that the broker has made."""
    given = socket.socket(fileno=int(words[0]))
    given.sendall(b"R")  # every mount of its jail is there
    return serve(Connection("", given))


def call_here(words: List[str]) -> int:
    """``call-here '' USER SERVICE+ARGUMENT DIRECTORY COMMAND…``: be the service.

    The user of the desktop calls it, with our standard streams.
    """
    name, _, argument = words[2].partition("+")
    argv = service_command(name, argument, words[4:])
    env = dict(os.environ, **call_environment(OWN_DESKTOP, name, argument))
    if words[3]:
        os.chdir(words[3])
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        tell(f"vitrail: {argv[0]}: {error.strerror}")
        return EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_STARTED


def service_command(name: str, argument: str, command: List[str]) -> List[str]:
    """Return the command of a service, by the record's or our own directories.

    Raises NoServiceError.
    """
    if command:
        return [*command, argument] if argument else command
    return find_service(name, argument)


def serve(connection: Connection) -> int:
    """Run the service that the next message names, on the stream behind it."""
    asked = connection.wait("service")
    source, name = str(asked["source"]), str(asked["service"])
    argument = str(asked["argument"])
    if name == PORT_SERVICE:
        code = serve_port(connection, source, argument)
        connection.socket.close()
        return code
    if name == AGENT_SERVICE:
        code = serve_own_agent(connection, source)
        connection.socket.close()
        return code
    stream = CallStream(connection)
    try:
        command = [str(word) for word in asked.get("command", [])]
        found = service_command(name, argument, command)
        env = dict(os.environ, **call_environment(source, name, argument))
        tell(f"vitrail: {source} calls {name}: {' '.join(found)}")
        code = run_service(found, env, str(asked.get("directory") or ""), stream)
    except TransferError as error:
        tell(f"vitrail: {source} calls {name}: {error}")
        code = error.code
    except OSError as error:
        tell(f"vitrail: {source} calls {name}: {error.filename}: {error.strerror}")
        code = EXIT_NOT_FOUND if error.errno == errno.ENOENT else EXIT_NOT_STARTED
    stream.send_code(code)
    connection.socket.close()
    return code


def call_environment(source: str, name: str, argument: str) -> Dict[str, str]:
    """Return the caller and its request, as Qubes' services find them and by our names."""
    full = f"{name}+{argument}" if argument else name
    return {
        "VITRAIL_CALL_SOURCE": source,
        "VITRAIL_CALL_SERVICE": name,
        "VITRAIL_CALL_ARGUMENT": argument,
        "QREXEC_REMOTE_DOMAIN": source,
        "QREXEC_SERVICE_FULL_NAME": full,
        "QREXEC_SERVICE_ARGUMENT": argument,
        "QREXEC_REQUESTED_TARGET_TYPE": "",
    }


def run_service(
    argv: List[str], env: Dict[str, str], directory: str, stream: CallStream
) -> int:
    """Run a service on a stream; returns its exit code, as a shell has it.

    Raises OSError where it cannot be started.
    """
    wake, woken = os.pipe()
    import subprocess

    started: List[subprocess.Popen[bytes]] = []
    cut = False

    def end(*_: object) -> None:
        nonlocal cut
        cut = True
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)

    # The broker's, when the call is over though the service has not read all; it may
    # come while the service is being started.
    # guard: a service that does not read ends with its call
    signal.signal(signal.SIGTERM, end)
    with subprocess.Popen(
        argv,
        env=env,
        cwd=directory or None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise TransferError("the service has no streams")
        started.append(process)
        if cut:
            end()
        output = process.stdout.fileno()
        sender = start_thread(lambda: stream.send_from(output, wake))
        source = process.stdin

        def feed() -> None:
            # A call that breaks off ends its service.
            if stream.receive_to(source.fileno(), source.close) is None:
                end()

        start_thread(feed)
        code = process.wait()
        os.close(woken)
        sender.join()
    return code if code >= 0 else 128 - code
