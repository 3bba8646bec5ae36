"""The process that connected to a UNIX socket, and whether it is in our pid namespace."""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

from broker.core.errors import RefusedError

SO_PEERPIDFD = 77  # Linux 6.5, not yet in Python's socket module
_UCRED = struct.Struct("3i")


def peer_numbers(conn: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of the process that connected (SO_PEERCRED)."""
    ucred = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(ucred)
    return pid, uid, gid


def peer_pidfd(conn: socket.socket) -> int:
    """Return a pidfd of the process that connected; the caller closes it.

    -1 where the kernel has no SO_PEERPIDFD.  Raises RefusedError when that
    process has ended.
    """
    try:
        return conn.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return -1
        pid = peer_numbers(conn)[0]
        raise RefusedError(f"the peer process {pid} has ended") from error


def in_our_pid_namespace(conn: socket.socket) -> bool | None:
    """Whether the process that connected is in our pid namespace; None: not to be told.

    By the numbers of its pidfd (proc_pid_fdinfo(5)), which need no right to trace it,
    as ``pid_namespaces`` does: a process that is undumpable, another user's, or of a
    program that may not be read has numbers, too.  Raises RefusedError when it has ended.
    """
    pidfd = peer_pidfd(conn)
    try:
        if pidfd < 0:  # before Linux 6.5 only the number of the peer is known
            pidfd = os.pidfd_open(peer_numbers(conn)[0])
        return _told_in_ours(pidfd)
    except OSError:  # no process has the number 0, or there is no descriptor left
        return None
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _told_in_ours(pidfd: int) -> bool | None:
    mine = os.pidfd_open(os.getpid())
    try:
        # Elsewhere /proc is that of a namespace above ours, and counts on.
        if len(_numbers(mine)) != 1:
            return None
    finally:
        os.close(mine)
    numbers = _numbers(pidfd)
    return len(numbers) == 1 if numbers else None


def _numbers(pidfd: int) -> list[int]:
    """Return the process's number in each pid namespace, from /proc's own inwards."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    first = int(fields.get("Pid", "0"))
    if first < 0:
        raise RefusedError("the peer process has ended")
    found = [int(number) for number in fields.get("NSpid", "").split()]
    # A process beside our namespace has no number in it: "0".
    return found if first else [0, 0]
