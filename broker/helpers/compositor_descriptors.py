"""For the keeper: how many descriptors the compositor has left, some of them for others."""

from __future__ import annotations

import resource
import socket
import struct
from pathlib import Path

from broker.helpers.compositor_connection import connect_compositor


def compositor_process(path: Path) -> int:
    """Return the process that listens at the socket, 0 outside of our pid namespace.

    Raises UpstreamError without one.
    """
    with connect_compositor(path) as sock:
        kind = struct.Struct("3i")
        peer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, kind.size)
        return int(kind.unpack(peer)[0])


def counts_descriptors() -> bool:
    """Return whether the kernel counts a process's for those who may not list them.

    It does since Linux 6.2.
    """
    return _count("self") > 0


def _count(pid: int | str) -> int:
    return Path(f"/proc/{pid}/fd").stat().st_size


def descriptors_left(pid: int) -> float:
    """Return the share of its descriptors that a process has left, 0 to 1.

    1 where the kernel does not tell: a compositor with capabilities (KWin), or one
    whose socket another program listens on.
    """
    if not pid:
        return 1.0
    try:
        most, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = _count(pid) or sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 1.0
    return 1.0 if most == resource.RLIM_INFINITY else max(0.0, 1 - used / most)
