"""Which programs are served at a socket of the user's own (control, devices).

A box, or a container without a separate user namespace, runs with the user's user id.
Where it sees the directory of our sockets, because a user has mounted it or a directory
above it, its programs could answer its own questions and start other sandboxes.

The authority asks this at the control socket, ``vitrail-devices`` at its own.  The viewer
cannot: its filter of system calls denies SO_PEERPIDFD.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

from broker.core.errors import RefusedError
from broker.core.stderr_log import log_stderr
from broker.core.token_bucket import TokenBucket
from broker.net.peers import peer_process

if TYPE_CHECKING:
    from trio.socket import SocketType

_LINES = TokenBucket(0.1, 10)


def log_refusal(
    name: str, conn: socket.socket | SocketType, reason: RefusedError | str
) -> None:
    """Write to standard error that a socket does not serve a program, and why."""
    now = time.monotonic()
    # guard: a box that connects without an end fills no log
    if _LINES.early(now):
        return
    _LINES.take(now)
    pid = peer_process.peer_numbers(conn)[0]
    log_stderr(f"vitrail: {name} does not serve process {pid}: {reason}")


def is_refused(name: str, conn: socket.socket, *, full: bool) -> bool:
    """Return whether a socket does not serve a program; write the reason to the log."""
    reason = why_not_served(conn.fileno())
    if reason is None and full:
        reason = RefusedError("too many programs are connected")
    if reason is not None:
        log_refusal(name, conn, reason)
    return reason is not None


def why_not_served(fd: int, broker: int = 0) -> RefusedError | None:
    """Return why the program at the far end is not served; None: it is.

    ``fd`` is a connected UNIX socket and stays the caller's; ``broker`` is the process
    that a user whom it never serves can end.
    """
    conn = socket.socket(fileno=fd)
    try:
        ours = in_our_pid_namespace(conn)
    except RefusedError as error:
        return error
    # guard: no answer of the kernel is a no
    except OSError as error:
        which = f" (process {broker})" if broker else ""
        return RefusedError(
            f"the kernel does not report the program's pid namespace: {error}",
            hint="check that /proc is mounted and can be read; to end this broker"
            f"{which}, run 'brokerctl stop --broker --force'",
        )
    finally:
        conn.detach()
    # guard: a sandbox gives the broker no orders
    if not ours:
        return RefusedError(
            "this broker serves no programs of containers or boxes: run it outside"
        )
    return None


def in_our_pid_namespace(conn: socket.socket) -> bool:
    """Return whether the process that connected is in this process's pid namespace.

    By the numbers of its pidfd (proc_pid_fdinfo(5)), which need no right to trace it,
    as ``pid_namespaces`` does: a process that is undumpable, another user's, or of a
    program that may not be read has numbers, too.  Raises RefusedError when it has
    ended, OSError where the kernel does not answer.
    """
    pidfd = peer_process.peer_pidfd(conn)
    try:
        if pidfd < 0:  # before Linux 6.5 only the number of the peer is known
            pidfd = os.pidfd_open(peer_process.peer_numbers(conn)[0])
        return _told_in_ours(pidfd)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _told_in_ours(pidfd: int) -> bool:
    """Compare the pid namespaces by the numbers that a pidfd shows.  Raises OSError."""
    mine = os.pidfd_open(os.getpid())
    try:
        # Elsewhere /proc is that of a namespace above ours, and counts on.
        if len(_numbers(mine)) != 1:
            raise OSError(errno.ENOTSUP, "/proc is not that of the broker's namespace")
    finally:
        os.close(mine)
    numbers = _numbers(pidfd)
    if not numbers:
        raise OSError(errno.ENOTSUP, "/proc has no NSpid of a pidfd")
    return len(numbers) == 1


def _numbers(pidfd: int) -> list[int]:
    """Return the process's number in each pid namespace, from /proc's own inwards.

    Raises RefusedError when it has ended, OSError where /proc cannot be read.
    """
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    first = int(fields.get("Pid", "0"))
    if first < 0:
        raise RefusedError("the peer process has ended")
    found = [int(number) for number in fields.get("NSpid", "").split()]
    # A process beside our namespace has no number in it: "0".
    return found if first else [0, 0]
