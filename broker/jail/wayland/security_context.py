"""A sandbox's own listening socket of the compositor (wp_security_context_v1).

A compositor that has this protocol treats clients of such a socket as
sandboxed: it hides privileged globals and knows the sandbox's name, so its own
rules can colour, place or restrict these windows.  That is a second mark,
made by another program than the filter and independent of it.

Blocking calls, each with a deadline; for a start-up, a thread, or the keeper.

The keeper runs this, in the user's session; a worker in its jail never does.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.escape import printable
from broker.core.limits import wayland as wayland_limits
from broker.jail.wayland.protocol import wire

ENGINE = "vitrail"
# The keeper makes the security context. A context's file descriptor is a way to new
# connections, and the worker may have been taken over. So the keeper, which parses
# nothing a guest sends, asks the compositor for it and connects through it; it forgets
# the answer when the socket's file is replaced. A compositor that offers contexts and
# then refuses one gets no window: its rules may rely on it.
MANAGER = "wp_security_context_manager_v1"
_BACKLOG = 64

# Ids of a connection that makes the socket, and opcodes of its messages.
_DISPLAY, _REGISTRY, _SYNC, _MANAGER_ID, _CONTEXT, _LAST_SYNC = 1, 2, 3, 4, 5, 6
_GET_REGISTRY, _BIND, _CREATE_LISTENER = 1, 0, 1
_SET_ENGINE, _SET_APP_ID, _SET_INSTANCE, _COMMIT = 1, 2, 3, 4
_ERROR_EVENT, _GLOBAL_EVENT, _DONE_EVENT = 0, 0, 0


@dataclass(frozen=True)
class SecurityContext:
    """The socket; it closes when this process does, or with ``close``.

    ``_place`` names the listening socket, whose file is gone already: no
    other process can connect to it.
    """

    _place: int
    _life: socket.socket

    def connect(self) -> socket.socket:
        """Connect to the compositor as this sandbox.  Raises UpstreamError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            seconds = wayland_limits.WAYLAND_CONNECT_SECONDS
            patience = struct.pack("ll", int(seconds), 0)
            # A full backlog blocks connect(2) for as long as this (socket(7)).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
            sock.connect(f"/proc/self/fd/{self._place}")
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0)
            )
        except OSError as error:
            sock.close()
            raise UpstreamError(
                f"cannot connect to the compositor's socket for this sandbox: {error.strerror}",
                hint="if the compositor was restarted, restart the sandbox",
            ) from error
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """The compositor takes no more connections; those it has remain."""
        self._life.close()
        os.close(self._place)


class _Talk:
    """One connection to the compositor, for the few words that are needed."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = b""

    def say(
        self,
        oid: int,
        opcode: int,
        kinds: str,
        *args: object,
        fds: tuple[int, ...] = (),
    ) -> None:
        """Send one request to the compositor."""
        data = wire.encode(oid, opcode, kinds, args)
        control = []
        if fds:
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        while data:
            sent = self._sock.sendmsg([data], control)
            data, control = data[sent:], []

    def hear(self) -> tuple[int, int, bytes]:
        """Read the compositor's next event: object, opcode, arguments.

        Raises UpstreamError.
        """
        while True:
            if len(self._rest) >= wire.HEADER.size:
                oid, opcode, size = wire.HEADER.unpack_from(self._rest)
                if size < wire.HEADER.size:
                    raise UpstreamError(
                        "the compositor sent an invalid Wayland message"
                    )
                if len(self._rest) >= size:
                    body = self._rest[wire.HEADER.size : size]
                    self._rest = self._rest[size:]
                    return oid, opcode, body
            data = self._sock.recv(limits.WAYLAND_READ_BYTES)
            if not data:
                raise UpstreamError("the compositor closed the connection")
            self._rest += data

    def until_done(self, callback: int) -> list[tuple[int, str]]:
        """Read until a sync is answered; return the globals announced meanwhile."""
        found: list[tuple[int, str]] = []
        while True:
            oid, opcode, body = self.hear()
            if (oid, opcode) == (_DISPLAY, _ERROR_EVENT):
                raise UpstreamError(
                    f"the compositor rejected a security context: {printable(body[12:], 200)}"
                )
            if (oid, opcode) == (callback, _DONE_EVENT):
                return found
            if (oid, opcode) == (_REGISTRY, _GLOBAL_EVENT):
                found.append(_global(body))


def _global(body: bytes) -> tuple[int, str]:
    name, length = struct.unpack_from("=II", body)
    return name, body[8 : 8 + length].rstrip(b"\0").decode("utf-8", "replace")


def open_context(display: Path, sandbox: str) -> SecurityContext | None:
    """Make a security context for a sandbox; None if the compositor has no such protocol.

    Binds a socket beside ``display``, passes it to the compositor, and unlinks its name at
    once.  Raises UpstreamError when the compositor has the protocol but does not make a
    context, or nothing answers: falling back would silently lose what its rules rely on.
    """
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(wayland_limits.WAYLAND_CONNECT_SECONDS)
            sock.connect(os.fspath(display))
            return _negotiate(_Talk(sock), display.parent, sandbox)
    except OSError as error:
        raise UpstreamError(
            f"cannot create a security context at the compositor {display}: {error}",
            hint="check that the compositor is running and that WAYLAND_DISPLAY (or --display) "
            "names its socket",
        ) from error


def _negotiate(talk: _Talk, directory: Path, sandbox: str) -> SecurityContext | None:
    """Ask the compositor for a security context manager; None without one."""
    talk.say(_DISPLAY, _GET_REGISTRY, "n", _REGISTRY)
    talk.say(_DISPLAY, 0, "n", _SYNC)
    offered = {interface: name for name, interface in talk.until_done(_SYNC)}
    name = offered.get(MANAGER)
    if name is None:
        return None
    talk.say(_REGISTRY, _BIND, "usun", name, MANAGER.encode(), 1, _MANAGER_ID)
    life, theirs = socket.socketpair()
    with contextlib.ExitStack() as undo:
        undo.callback(life.close)
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            place = _listen(listener, directory)
            undo.callback(os.close, place)
            fds = (listener.fileno(), theirs.fileno())
            talk.say(_MANAGER_ID, _CREATE_LISTENER, "n", _CONTEXT, fds=fds)
            for opcode, text in (
                (_SET_ENGINE, ENGINE),
                (_SET_APP_ID, f"vitrail.{sandbox}"),
                (_SET_INSTANCE, os.urandom(8).hex()),
            ):
                talk.say(_CONTEXT, opcode, "s", text.encode())
            talk.say(_CONTEXT, _COMMIT, "")
            talk.say(_DISPLAY, 0, "n", _LAST_SYNC)
            talk.until_done(_LAST_SYNC)
        undo.pop_all()
    return SecurityContext(place, life)


def _listen(listener: socket.socket, directory: Path) -> int:
    """Listen on a name that is unlinked at once; return a descriptor (O_PATH) of it."""
    path = directory / f"vitrail-{os.urandom(8).hex()}"
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(before)
    try:
        listener.listen(_BACKLOG)
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    finally:
        path.unlink()
