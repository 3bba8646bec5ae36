"""Bytes and file descriptors over UNIX sockets, counted (unix(7), cmsg(3)).

Works on blocking and non-blocking sockets alike; a non-blocking one raises
BlockingIOError and the caller waits (``more``: further flags, as MSG_DONTWAIT).
Every descriptor that arrives is returned, and the caller's to close, or closed here.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from broker.core.errors import PeerError

_INT = array.array("i").itemsize
# As plain numbers: an enumeration's own "&" costs as much as a system call.
_FDS_LOST, _CUT = int(socket.MSG_CTRUNC), int(socket.MSG_TRUNC)
_CLOEXEC, _NO_SIGNAL = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_NOSIGNAL)


@cache
def _room(fd_limit: int) -> int:
    return socket.CMSG_SPACE(fd_limit * _INT) if fd_limit else 0


class DescriptorsLostError(PeerError):
    """Descriptors came that could not be received; ``data`` came with them."""

    def __init__(self, problem: str, data: bytes, *, are_too_many: bool) -> None:
        super().__init__(f"the peer sent {problem}")
        self.data = data
        self.are_too_many = are_too_many
        """Whether the peer sent more than were allowed; else this process lacks room."""


class Received(NamedTuple):
    """The result of one recvmsg(2).  Empty ``data`` is the peer's end of stream."""

    data: bytes
    fds: tuple[int, ...]


def receive(sock: socket.socket, size: int, fd_limit: int, more: int = 0) -> Received:
    """Read at most ``size`` bytes and ``fd_limit`` descriptors (close-on-exec).

    The kernel never merges bytes of two messages that both carry descriptors,
    so forwarding each answer as a whole keeps their order and place.

    Raises DescriptorsLostError when the peer sent more descriptors than ``fd_limit`` or
    than this process may hold (MSG_CTRUNC), PeerError when a packet was longer than
    ``size`` (MSG_TRUNC), or for any other kind of ancillary data.
    """
    data, ancillary, flags, _ = sock.recvmsg(size, _room(fd_limit), _CLOEXEC | more)
    if not ancillary and not flags & (_FDS_LOST | _CUT):
        return Received(data, ())
    fds = array.array("i")
    strange = False
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % _INT])
        else:
            strange = True
    problem = ""
    if flags & _FDS_LOST or len(fds) > fd_limit:
        # CMSG_SPACE rounds up, so one descriptor more than asked for may fit.
        problem = f"more than {fd_limit} file descriptors at once, or too many are open"
    elif flags & _CUT:
        problem = f"a message longer than {size} bytes"
    elif strange:
        problem = "ancillary data that is not a file descriptor"
    # guard: no descriptors without a byte
    if fds and not data:
        # A caller takes empty data for the end and would forget them.
        problem = "file descriptors without data"
    if problem:
        close_all(fds)
        if flags & _FDS_LOST and not flags & _CUT:
            # The kernel delivers as many as there is room for.
            are_too_many = len(fds) >= max(1, fd_limit)
            raise DescriptorsLostError(problem, data, are_too_many=are_too_many)
        raise PeerError(f"the peer sent {problem}")
    return Received(data, tuple(fds))


def send(
    sock: socket.socket,
    data: bytes | bytearray | memoryview,
    fds: Sequence[int] = (),
    more: int = 0,
) -> int:
    """Send bytes, the descriptors attached to the first; return bytes sent.

    The caller keeps its copies of ``fds`` and closes them.  On a stream
    socket fewer bytes than given may be sent; the descriptors are gone with
    the first one, so what remains is sent without them.
    """
    if not fds:
        return sock.send(data, _NO_SIGNAL | more)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    return sock.sendmsg([data], ancillary, _NO_SIGNAL | more)


def close_all(fds: Iterable[int]) -> None:
    """Close our descriptors."""
    for fd in fds:
        os.close(fd)
