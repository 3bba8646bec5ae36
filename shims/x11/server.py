"""Sockets and processes: programs' X socket, Xwayland, and one bridge at a time."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from typing import Any, NamedTuple, Optional

from shims.guest.display_socket import bind_display, remove_display
from shims.x11.bridge import Bridge
from shims.x11.cookie import XAuthority
from shims.x11.core import Core
from shims.x11.wire import MOST_FDS, BridgeError, Stream

QUEUE_BYTES = 1 << 20
"""What waits for one side before the other is not read."""
_READ = 1 << 16
RESTART_SECONDS = 1.0
LINGER_SECONDS = 2
"""After the last program: Xwayland ends at once otherwise, also for one just let in."""


def say(text: str) -> None:
    """Write a line of the log; a line that nobody reads is lost."""
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
        raise BridgeError(f"cannot connect to {path}: {error}") from error
    return connection


class XDisplay(NamedTuple):
    """Programs' X socket, its number, and the scale of windows (0: the screen's)."""

    listener: socket.socket
    number: int
    authority: XAuthority
    scale: float


class Server:
    """Waits for X11 programs, and shows them until the last one has gone."""

    def __init__(self, display: XDisplay, argv: list[str]) -> None:
        """Start our own program, if there is one.  Raises OSError."""
        self._display = display
        self._ends: list[Any] = []
        self.child: Optional[subprocess.Popen[bytes]] = None
        if argv:
            env = {**os.environ, "XAUTHORITY": display.authority.path}
            env.update(DISPLAY=f":{display.number}", _JAVA_AWT_WM_NONREPARENTING="1")
            self.child = subprocess.Popen(argv, env=env)
            self._ends = [os.pidfd_open(self.child.pid)]

    def serve(self, *, once: bool) -> int:
        """Serve until the program that we were started with ends; returns its code.

        ``once``: another program waits for the next X11 program.
        """
        listener = self._display.listener
        while self.child is None or self.child.poll() is None:
            ready, _, _ = select.select([listener, *self._ends], [], [])
            if listener in ready:
                self._show()
                if once:
                    break
        code = self.child.returncode if self.child is not None else 0
        return 128 - code if code < 0 else code

    def _show(self) -> None:
        """Run one Xwayland until it or our program ends."""
        began = time.monotonic()
        try:
            with contextlib.closing(XSession(self._display)) as session:
                while not session.turn(self._ends):
                    pass
        except BridgeError as error:
            say(f"closing X11 windows: {error}")
        except Exception:
            say(f"internal error: {traceback.format_exc()}")
        else:
            return  # a server that ended with its last program may be wanted again at once
        if time.monotonic() - began < RESTART_SECONDS:
            self._refuse()

    def _refuse(self) -> None:
        """Drop a program's connection, as Xwayland cannot start."""
        listener = self._display.listener
        listener.settimeout(RESTART_SECONDS)
        with contextlib.suppress(OSError):
            listener.accept()[0].close()
        listener.settimeout(None)


class XSession:
    """One Xwayland with its bridge, and their sockets."""

    def __init__(self, display: XDisplay) -> None:
        self._display, self._ended = display, False
        self._server: Optional[subprocess.Popen[bytes]] = None
        self._up = wayland_socket()
        self._down, self._theirs = socket.socketpair()
        self._wm, self._wm_theirs = socket.socketpair()
        for end in (self._up, self._down, self._wm):
            end.settimeout(0)
        core = Core(time.monotonic, say, display.authority.cookie)
        self.bridge = Bridge(core, display.scale)
        self.bridge.on_ready = self._start
        streams: list[Stream] = [core.relay.up, core.relay.down, core.x]
        self._connections = [*zip((self._up, self._down, self._wm), streams)]

    def _start(self) -> None:
        """Start Xwayland with its sockets.  Raises BridgeError."""
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
        none, pipe = subprocess.DEVNULL, subprocess.PIPE
        self._server = subprocess.Popen(
            argv, env=env, pass_fds=ends, stdin=none, stderr=pipe
        )
        self._theirs.close()
        self._wm_theirs.close()

    def turn(self, more: list[Any]) -> bool:
        """Wait until something can be done, and do it; returns whether it was the last.

        ``more`` end the session by being readable.  Raises BridgeError.
        """
        bridge = self.bridge
        relay, x, moves = bridge.core.relay, bridge.core.x, bridge.selections
        self._send_queued()
        readers: list[Any] = [*more, *moves.readers()]
        if len(relay.down.out) < QUEUE_BYTES:
            readers.append(self._up)
        if len(relay.up.out) < QUEUE_BYTES and len(x.out) < QUEUE_BYTES:
            readers += [self._down, self._wm]
        writers: list[Any] = [end for end, stream in self._connections if stream.out]
        writers += moves.writers()
        ready, able, _ = select.select(readers, writers, [], bridge.core.patience())
        for end, connection in self._connections:
            if end in ready:
                self._read(end, connection)
        moves.ready([*ready, *able])
        bridge.work()
        return self._ended or any(end in ready for end in more)

    def _read(self, end: socket.socket, connection: Stream) -> None:
        """Read an end's bytes into its connection."""
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
        """End the session; all but Xwayland's planned end is a fault."""
        server = self._server
        if server is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ended = server.wait(2.0) == 0
        if not self._ended:
            raise BridgeError(why)

    def _send_queued(self) -> None:
        """Send queued bytes and descriptors to the compositor and to Xwayland.

        Descriptors that were sent are closed.
        """
        for end, connection in [pair for pair in self._connections if pair[1].out]:
            # What an end said before it went is still to be read.
            with contextlib.suppress(BlockingIOError, ConnectionError):
                while connection.out:
                    data, fds = connection.piece()
                    count = socket.send_fds(end, [data], fds) if fds else end.send(data)
                    connection.sent(count, fds)

    def close(self) -> None:
        """End Xwayland, and say its last words if it failed."""
        errors = b""
        if self._server is not None:
            # Its connections stay open, or it would report that they are broken.
            self._server.terminate()
            try:
                _, errors = self._server.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                self._server.kill()
                _, errors = self._server.communicate()
        for end in (self._up, self._down, self._wm, self._theirs, self._wm_theirs):
            end.close()
        self.bridge.close()
        if self._server is None:
            return
        if self._server.returncode not in (0, -signal.SIGTERM):
            words = errors.decode("utf-8", "replace").strip().splitlines()[-3:]
            say(f"Xwayland ended with {self._server.returncode}: {' / '.join(words)}")


def main(argv: list[str]) -> int:
    """Entry point: serve X11 programs."""
    scale, fd = float(os.environ.get("VITRAIL_X11_SCALE") or 0), -1
    if argv[:1] == ["--listen"]:
        fd, argv = int(argv[1]), argv[2:]
    argv = argv[1:] if argv[:1] == ["--"] else argv
    if fd >= 0:
        authority = XAuthority(os.environ.get("XAUTHORITY", ""), present=True)
        listener = socket.socket(fileno=os.dup(fd))
        number = int(str(listener.getsockname()).rpartition("X")[2])
    else:
        # The other name is ours until this process ends.
        listener, number, _reserved = bind_display()
        runtime = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
        path = os.path.join(runtime, f"vitrail-xauthority-{number}")
        try:
            authority = XAuthority(path, present=False)
        except OSError as error:
            say(
                f"cannot write {path}: {error.strerror}; set XDG_RUNTIME_DIR to a directory of yours"
            )
            return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        server = Server(XDisplay(listener, number, authority, scale), argv)
    except OSError as error:
        say(f"cannot start {argv[0]}: {error.strerror}")
        return 127
    try:
        return server.serve(once=fd >= 0)
    finally:
        if server.child is not None:
            server.child.terminate()
        if fd < 0:
            remove_display(number)
            with contextlib.suppress(OSError):
                os.unlink(authority.path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
