"""Addresses of the broker's ports, and connecting to them without blocking."""

from __future__ import annotations

import errno
import selectors
import socket
import struct
from typing import Any, Callable, Optional

from shims.guest.launch import Proof
from shims.guest.loop import Loop

CONNECT_SECONDS = 10.0


class Address:
    """``vsock:CID:PORT``, ``unix:PATH`` or ``port:PATH``.

    The last is a socket of ``port_streams``, whose first byte is the broker's answer.
    With a secret the far end proves the launch before it is used.  With an ``owner``
    it is a process of this user: we may connect to sockets that this user may not.
    """

    def __init__(
        self, text: str, service: str = "", secret: bytes = b"", *, owner: int = -1
    ) -> None:
        kind, _, rest = text.partition(":")
        self.text = text
        self._service = service
        self._secret = secret
        self._owner = owner
        self.target: Any
        self._answers = kind == "port"
        if kind in ("unix", "port") and rest:
            self.family = int(socket.AF_UNIX)
            self.target = rest
        elif kind == "vsock" and rest.count(":") == 1:
            self.family = int(socket.AF_VSOCK)
            cid, port = rest.split(":")
            self.target = (int(cid), int(port))
        else:
            raise ValueError(f"invalid address: {text!r} (vsock:CID:PORT or unix:PATH)")

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

        def answered(sock: Optional[socket.socket], code: int) -> None:
            # guard: the agent carries a user's bytes to no socket of another's
            if sock is not None and self._owner >= 0 and peer_uid(sock) != self._owner:
                sock.close()
                done(None, errno.EACCES)
            elif sock is None or not self._answers:
                connected(sock, code)
            else:
                await_answer(loop, sock, connected)

        self._connect(loop, answered)

    def _connect(
        self, loop: Loop, done: "Callable[[Optional[socket.socket], int], None]"
    ) -> None:
        """Connect without blocking; call ``done`` with the socket or an errno."""
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

        finish = _waiting(loop, sock, done)
        loop.watch(
            sock.fileno(),
            selectors.EVENT_WRITE,
            lambda _events: finish(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)),
        )


def peer_uid(sock: socket.socket) -> int:
    """The user of the process that listens at a UNIX socket (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", packed)[1])


def _waiting(
    loop: Loop,
    sock: socket.socket,
    done: "Callable[[Optional[socket.socket], int], None]",
) -> "Callable[[int], None]":
    """Return what ends a wait for a socket, with 0 or an errno; the deadline does, too."""

    def finish(code: int) -> None:
        deadline.cancel()
        loop.forget(sock.fileno())
        if code:
            sock.close()
        done(None if code else sock, code)

    deadline = loop.later(CONNECT_SECONDS, lambda: finish(errno.ETIMEDOUT))
    return finish


def await_answer(
    loop: Loop,
    sock: socket.socket,
    done: "Callable[[Optional[socket.socket], int], None]",
) -> None:
    """Read the broker's answer, one byte: 0, or a refusal's errno.

    Then call ``done``.
    """
    finish = _waiting(loop, sock, done)

    def ready(_events: int) -> None:
        try:
            answer = sock.recv(1)
        except BlockingIOError:
            return
        except OSError as error:
            finish(error.errno or errno.EIO)
            return
        finish(answer[0] if answer else errno.ECONNRESET)

    loop.watch(sock.fileno(), selectors.EVENT_READ, ready)
