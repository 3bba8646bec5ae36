"""Sockets between us and the programs we start."""

from __future__ import annotations

import socket
from pathlib import Path

import trio

from broker.core import limits
from broker.core.errors import UpstreamError
from broker.launch.process.identity import Tracked

_LOOK_SECONDS = 0.01


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


async def connect_when_ready(path: Path, process: Tracked) -> socket.socket:
    """Connect to a socket that ``process`` is about to listen on.

    Looks every 10 ms, because a socket's file exists before it is listened
    on and no event reports the second.  Raises UpstreamError, with the
    program's output, when it ends first or takes too long.
    """
    with trio.move_on_after(limits.VM_READY_SECONDS):
        while not process.ended:
            conn = socket.socket(
                socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC
            )
            try:
                conn.connect(str(path))  # a UNIX connect is done or refused at once
            except (FileNotFoundError, ConnectionRefusedError):
                conn.close()
                await trio.sleep(_LOOK_SECONDS)
            except BaseException:
                conn.close()
                raise
            else:
                return conn
    how = "ended" if process.ended else f"was silent for {limits.VM_READY_SECONDS:g} s"
    raise UpstreamError(f"{process.role} {how} before it was ready: {process.words}")
