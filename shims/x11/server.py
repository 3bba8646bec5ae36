"""Sockets and processes: programs' X socket, Xwayland, and one bridge at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from typing import Any, List, NamedTuple, Optional, Tuple

from shims.x11.bridge import Bridge
from shims.x11.cookie import XAuthority
from shims.x11.wire import MOST_FDS, BridgeError, Stream

QUEUE_BYTES = 1 << 20
"""What waits for one side before the other is not read."""
_READ = 1 << 16
RESTART_SECONDS = 1.0
LINGER_SECONDS = 2
"""After the last program: Xwayland ends at once otherwise, also for one just let in."""
X_SOCKETS = "/tmp/.X11-unix"


def say(text: str) -> None:
    """Write a line of the log; one that nobody reads is lost."""
    with contextlib.suppress(OSError):
        os.write(2, f"vitrail-x11: {text}\n".encode("utf-8", "replace"))


def wayland_socket() -> socket.socket:
    """Connect to the sandbox's compositor.  Raises BridgeError."""
    path = os.environ.get("WAYLAND_DISPLAY") or "wayland-0"
    path = os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/run"), path)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise BridgeError(f"no compositor at {path}: {error}") from error
    return connection


def listen(directory: str = X_SOCKETS) -> Tuple[socket.socket, int]:
    """Make programs' X socket; returns it and the display's number.  Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o1777)
        os.chmod(directory, 0o1777)
    for number in range(100):
        listener = socket.socket(socket.AF_UNIX)
        path = f"{directory}/X{number}"
        try:
            listener.bind(path)
        except OSError:
            if not _is_dead(path):
                listener.close()
                continue
            os.unlink(path)
            listener.bind(path)
        listener.listen(64)
        return listener, number
    raise OSError("all of 100 X displays are taken")


def _is_dead(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == errno.ECONNREFUSED


class XDisplay(NamedTuple):
    """Programs' X socket, its number, and the scale of windows (0: the screen's)."""

    listener: socket.socket
    number: int
    authority: XAuthority
    scale: float


class Server:
    """Waits for X11 programs, and shows them until the last one has gone."""

    def __init__(self, display: XDisplay) -> None:
        self._display, self._listener = display, display.listener
        self._wake, woken = socket.socketpair()
        for end in (self._wake, woken):
            end.settimeout(0)
        signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
        self._woken = woken
        self.child: Optional[subprocess.Popen[bytes]] = None
        self.once = False
        """Whether another program waits for the next X11 program."""

    def serve(self) -> int:
        """Serve until the program that we were started with ends; returns its code."""
        while self._goes_on():
            ready, _, _ = select.select([self._listener, self._wake], [], [])
            if self._listener in ready:
                self._show()
                if self.once:
                    break
        code = self.child.returncode if self.child is not None else 0
        return 128 - code if code < 0 else code

    def _goes_on(self) -> bool:
        """Whether our own program, if there is one, has not ended."""
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)
        return self.child is None or self.child.poll() is None

    def _show(self) -> None:
        """Run one Xwayland, to its end or that of our own program."""
        began = time.monotonic()
        session = None
        try:
            session = XSession(self._display)
            while not session.ended and self._goes_on():
                session.turn([self._wake])
        except BridgeError as error:
            say(f"X11 windows end: {error}")
        except Exception:
            say(f"X11 windows end by an internal error: {traceback.format_exc()}")
        else:
            return
        finally:
            if session is not None:
                session.close()
        # One that ended with its last program may be wanted again at once.
        clean = session is not None and session.ended
        if not clean and time.monotonic() - began < RESTART_SECONDS:
            self._refuse()

    def _refuse(self) -> None:
        """Xwayland could not start: let programs fail, rather than start it again."""
        self._listener.settimeout(RESTART_SECONDS)
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        self._listener.settimeout(None)


class XSession:
    """One Xwayland with its bridge, and their sockets."""

    def __init__(self, display: XDisplay) -> None:
        self._display, self.ended = display, False
        self._server: Optional[subprocess.Popen[bytes]] = None
        self._up = wayland_socket()
        self._down, self._theirs = socket.socketpair()
        self._wm, self._wm_theirs = socket.socketpair()
        for end in (self._up, self._down, self._wm):
            end.settimeout(0)
        cookie, scale = display.authority.cookie, display.scale
        self.bridge = Bridge(time.monotonic, say, cookie, scale)
        self.bridge.on_ready = self._start
        relay, x = self.bridge.core.relay, self.bridge.core.x
        ends: List[Tuple[socket.socket, Stream]] = [(self._up, relay.up)]
        self._connections = [*ends, (self._down, relay.down), (self._wm, x)]

    def _start(self) -> None:
        program = shutil.which("Xwayland")
        if program is None:
            raise BridgeError("Xwayland is not installed")
        theirs = self._theirs, self._wm_theirs, self._display.listener
        wayland, wm, listen_fd = ends = [end.fileno() for end in theirs]
        words = f"-rootless -noreset -shm -terminate {LINGER_SECONDS}"
        words += f" -wm {wm} -listenfd {listen_fd}"
        argv = [program, f":{self._display.number}", *words.split()]
        argv += ["-auth", self._display.authority.path]
        env = {**os.environ, "WAYLAND_SOCKET": str(wayland)}
        env.pop("DISPLAY", None)
        none, pipe = subprocess.DEVNULL, subprocess.PIPE
        self._server = subprocess.Popen(
            argv, env=env, pass_fds=ends, stdin=none, stderr=pipe
        )
        self._theirs.close()
        self._wm_theirs.close()

    def turn(self, more: List[socket.socket]) -> None:
        """Wait until something can be done, and do it.  Raises BridgeError."""
        bridge = self.bridge
        relay, x, moves = bridge.core.relay, bridge.core.x, bridge.selections
        self._flush()
        readers: List[Any] = [*more, *moves.readers()]
        if len(relay.down.out) < QUEUE_BYTES:
            readers.append(self._up)
        if len(relay.up.out) < QUEUE_BYTES and len(x.out) < QUEUE_BYTES:
            readers += [self._down, self._wm]
        writers: List[Any] = [end for end, stream in self._connections if stream.out]
        writers += moves.writers()
        patience = bridge.core.patience()
        ready, able, _ = select.select(readers, writers, [], patience)
        for end, connection in self._connections:
            if end in ready:
                self._read(end, connection)
        for fd in {f for f in (*ready, *able) if isinstance(f, int)}:
            moves.ready(fd)
        bridge.work()
        self._flush()

    def _read(self, end: socket.socket, connection: Stream) -> None:
        try:
            flags = socket.MSG_CMSG_CLOEXEC
            data, fds, _, _ = socket.recv_fds(end, _READ, MOST_FDS, flags)
        except BlockingIOError:
            return
        except ConnectionError as error:
            self._over(f"{connection.peer} ended: {error}")
            return
        connection.feed(data, fds)
        if not data:
            self._over(f"{connection.peer} closed the connection")

    def _over(self, why: str) -> None:
        """Xwayland ends by itself after the last program; all else is a fault."""
        server = self._server
        if server is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.ended = server.wait(2.0) == 0
        if not self.ended:
            raise BridgeError(why)

    def _flush(self) -> None:
        for end, connection in self._connections:
            # What an end said before it went is still to be read.
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while connection.out:
                    data, fds = connection.piece()
                    connection.sent(socket.send_fds(end, [data], fds), fds)

    def close(self) -> None:
        """End Xwayland, and say its last words if it failed."""
        for end in (self._up, self._down, self._wm, self._theirs, self._wm_theirs):
            end.close()
        self.bridge.close()
        if self._server is None:
            return
        self._server.terminate()
        try:
            _, errors = self._server.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            _, errors = self._server.communicate()
        if self._server.returncode not in (0, -signal.SIGTERM):
            words = errors.decode("utf-8", "replace").strip().splitlines()[-3:]
            say(f"Xwayland ended with {self._server.returncode}: {' / '.join(words)}")


def environment(number: int, authority: XAuthority) -> dict:  # type: ignore[type-arg]
    """Return the environment of programs: Wayland first, X11 where they need it."""
    return {
        **os.environ,
        "DISPLAY": f":{number}",
        "XAUTHORITY": authority.path,
        "_JAVA_AWT_WM_NONREPARENTING": "1",
    }


def main(argv: List[str]) -> int:
    """Serve X11 programs; see the head of this program."""
    scale, fd = float(os.environ.get("VITRAIL_X11_SCALE") or 0), -1
    if argv[:1] == ["--listen"]:
        fd, argv = int(argv[1]), argv[2:]
    argv = argv[1:] if argv[:1] == ["--"] else argv
    runtime = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    if fd >= 0:
        authority = XAuthority(os.environ.get("XAUTHORITY", ""), present=True)
        listener = socket.socket(fileno=os.dup(fd))
        number = int(str(listener.getsockname()).rpartition("X")[2])
    else:
        listener, number = listen()
        path = os.path.join(runtime, f"vitrail-xauthority-{number}")
        authority = XAuthority(path, present=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    server = Server(XDisplay(listener, number, authority, scale))
    server.once = fd >= 0
    if argv:
        try:
            server.child = subprocess.Popen(argv, env=environment(number, authority))
        except OSError as error:
            say(f"{argv[0]} cannot be started: {error.strerror}")
            return 127
    try:
        return server.serve()
    finally:
        if server.child is not None and server.child.poll() is None:
            server.child.terminate()
        if fd < 0:
            for path in (f"{X_SOCKETS}/X{number}", authority.path):
                with contextlib.suppress(OSError):
                    os.unlink(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
