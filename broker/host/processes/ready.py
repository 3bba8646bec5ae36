"""Sockets between us and the programs we start.

The host makes them; brokerctl waits by this for a process of a machine that it starts
by a script.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.host.processes.tracked import Tracked
from broker.net.refused_descriptors import refuse_descriptors

_LOOK_SECONDS = 0.01

_Found = TypeVar("_Found")


def listen_unix(path: Path) -> socket.socket:
    """Bind and listen on ``path`` (0600), taking the place of a stale socket.

    The directory is the guard: it must be ours and 0700.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


async def open_stream(path: Path) -> trio.SocketStream:
    """Connect to a socket at whose far end is a program that a guest may take over.

    It is not waited for, and sends no descriptors where the kernel can refuse them.
    Raises OSError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # The process that reads a byte closes the descriptors that come with it.
        # guard: the monitor of a machine sends no descriptor
        refuse_descriptors(sock)
        sock.setblocking(False)  # noqa: FBT003 -- the socket module's own
        sock.connect(os.fspath(path))
        await trio.lowlevel.checkpoint()
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))


async def connect_when_ready(path: Path, process: Tracked) -> socket.socket:
    """Connect to the socket of a program that was just started, once it listens.

    Raises UpstreamError, with the program's output, when it ends first or takes too
    long.
    """
    return await wait_ready(process, lambda: _connected(path))


async def wait_listening(path: Path, process: Tracked) -> None:
    """Wait until ``process`` listens on ``path``, without connecting to it.

    For a program whose first connection is another's.  Raises UpstreamError as
    ``connect_when_ready``.
    """
    await wait_ready(process, lambda: _listens(path, process.pid) or None)


async def wait_ready(process: Tracked, look: Callable[[], _Found | None]) -> _Found:
    """Call ``look`` every 10 ms until it returns a value, and return that.

    Raises UpstreamError when the process ends first, or after VM_READY_SECONDS.

    A socket's file exists before it is listened on, and no event reports the second.
    """
    with trio.move_on_after(limits.VM_READY_SECONDS):
        while not process.ended:
            found = look()
            if found is not None:
                return found
            await trio.sleep(_LOOK_SECONDS)
    how = "ended" if process.ended else f"hung for {limits.VM_READY_SECONDS:g} s"
    raise UpstreamError(f"{process.role} {how} before it was ready: {process.words}")


def _connected(path: Path) -> socket.socket | None:
    """Connect to a helper's socket, without waiting for its queue."""
    conn = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # With a full queue a connect(2) waits until the program accepts (unix(7)).
        # guard: a helper that does not accept is not waited for in a system call
        conn.settimeout(0)
        conn.connect(str(path))
        conn.settimeout(None)
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        conn.close()
        return None
    except BaseException:
        conn.close()
        raise
    return conn


def _listens(path: Path, pid: int) -> bool:
    """Return whether a process listens at a path, as /proc says."""
    # proc(5), /proc/net/unix: Num RefCount Protocol Flags Type St Inode Path;
    # flag 0x10000 (__SO_ACCEPTCON): it listens.
    # The table is that of its network namespace, which is the jail's own.
    with Path(f"/proc/{pid}/net/unix").open() as table:
        rows = (line.split(maxsplit=7) for line in table)
        return any(
            len(row) == 8 and row[7].rstrip("\n") == str(path) and row[3] == "00010000"
            for row in rows
        )
