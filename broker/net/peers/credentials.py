"""Asking the kernel who is at the far end of a socket.

Pid numbers wrap within minutes on small machines, so a process is known by
its pidfd: ``fstat(pidfd).st_ino`` is unique for the life of a process on
kernels with pidfs (6.9 and later); below that every pidfd has one inode, and
we say so instead of comparing it.

The host asks; ``brokerctl doctor`` tries whether the kernel can answer.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from pathlib import Path

from broker.core.errors import RefusedError
from broker.net.peers.identity import ProcessFacts, VsockFacts, take_cid
from broker.net.peers.peer_process import peer_numbers, peer_pidfd

_PIDFD_GET_PID_NAMESPACE = 0xFF05  # ioctl on a pidfd, Linux 6.11
_NS_GET_PARENT = 0xB702  # ioctl_ns(2)
_GROUP_BYTES = 1 << 16
# A CID identifies its holder until the holder begins to exit. The kernel frees a dead
# machine's CID while its process is still ending, milliseconds before the process's
# pidfd reports it, and another machine that takes the CID in between would have been
# let in under the old lease. So each connection of a CID is refused unless the process
# that holds the CID is there and has not begun to end (`PF_EXITING`, which is set
# before its descriptors are closed). For our own launcher's machines this is the second
# guard; the first is the duplicate of the device, with which the CID is not freed
# before all streams are cut. For a foreign launcher's machine the first guard is
# missing; the rest of the gap is in the threat model.
_PF_EXITING = 0x4  # include/linux/sched.h; field 9 of /proc/PID/stat
# A namespace is at most 32 levels deep (pid_namespaces(7)).
_DEEPEST = 32


def pidfd_inode(pidfd: int) -> int:
    """Return the inode that names the process of a pidfd, 0 if none does.

    0 means a kernel without pidfs, where all pidfds share one anonymous inode.
    """
    mine = os.pidfd_open(os.getpid())
    try:
        own = os.fstat(mine).st_ino
    finally:
        os.close(mine)
    inode = os.fstat(pidfd).st_ino
    return inode if inode != own or _is_self(pidfd) else 0


def _is_self(pidfd: int) -> bool:
    info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    return f"\nPid:\t{os.getpid()}\n" in info


def process_facts(conn: socket.socket) -> ProcessFacts:
    """Return who connected to a UNIX socket.

    SO_PEERCRED and SO_PEERPIDFD name the process that called connect(2).  On
    kernels older than 6.5 the inode is 0 and the namespaces are empty.
    Raises RefusedError when that process is gone: its namespaces cannot be
    asked for any more, so nothing can vouch for the stream.  Raises OSError as
    ``peer_pidfd``.
    """
    pidfd = peer_pidfd(conn)
    try:
        return facts_of(peer_numbers(conn), pidfd)
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def facts_of(numbers: tuple[int, int, int], pidfd: int) -> ProcessFacts:
    """Return the facts about a process: its pid, uid and gid, and its pidfd or -1.

    Raises RefusedError when it has ended.
    """
    if pidfd < 0:
        return ProcessFacts(*numbers, 0, ())
    group = control_group(numbers[0], pidfd)
    return ProcessFacts(*numbers, pidfd_inode(pidfd), pid_namespaces(pidfd), group)


def control_group(pid: int, pidfd: int) -> str:
    """Return a process's path in the unified hierarchy (cgroups(7)), or "".

    Where that is the root and the memory controller has a separate hierarchy
    (version 1), its path there: a launcher without systemd makes its groups in the
    hierarchies that have controllers.

    Any user may read it.  The kernel allows no line end in a group's name.  Raises
    RefusedError when the process has ended: the number may be another's by then.
    """
    try:
        with Path(f"/proc/{pid}/cgroup").open("rb") as file:
            lines = file.read(_GROUP_BYTES).split(b"\n")
    except OSError:
        lines = []
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    # guard: a number that is used again is not the peer's
    if poll.poll(0):
        raise RefusedError("the peer process has ended")
    return os.fsdecode(_group_of(lines))


def _group_of(lines: list[bytes]) -> bytes:
    """Return the unified path from the lines of /proc/PID/cgroup.

    The memory controller's path if the unified one is missing or "/".
    """
    groups: dict[bytes, bytes] = {}
    for line in filter(None, lines):
        # "number:controllers:path", the unified one without controllers; a path may
        # have colons in it.
        controllers, _, path = line.partition(b":")[2].partition(b":")
        groups[controllers] = path
    unified = groups.get(b"", b"")
    return groups.get(b"memory", unified) if unified in (b"", b"/") else unified


def is_ending(pid: int) -> bool:
    """Return whether a process has PF_EXITING set (proc(5)), or cannot be seen.

    Its descriptors are closed after this flag is set and before its pidfd says
    anything: between the two another machine may take a dead one's CID.  The
    caller holds a pidfd, and looks at that afterwards.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return True
    # The name, in brackets, may have spaces and brackets in it.
    flags = stat.rpartition(b")")[2].split()[6]
    return bool(int(flags) & _PF_EXITING)


def pid_namespaces(pidfd: int) -> tuple[int, ...]:
    """Return the inodes of a process's pid namespace and those above it.

    Ends at our own namespace, above which the kernel reports nothing.  Empty
    when the kernel is older than 6.11 or the process may not be asked.
    Raises RefusedError when the process has ended.
    """
    try:
        namespace = fcntl.ioctl(pidfd, _PIDFD_GET_PID_NAMESPACE, 0)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise RefusedError("the peer process has ended") from error
        return ()
    inodes: list[int] = []
    try:
        while len(inodes) < _DEEPEST:
            inodes.append(os.fstat(namespace).st_ino)
            parent = fcntl.ioctl(namespace, _NS_GET_PARENT, 0)
            os.close(namespace)
            namespace = parent
    except OSError as error:
        if error.errno != errno.EPERM:  # EPERM: the parent is above our view
            raise
    finally:
        os.close(namespace)
    return tuple(inodes)


def can_ask_pid_namespaces() -> bool:
    """Return whether this kernel shows the pid namespace of a traceable process."""
    return bool(_told_of_self())


def pid_namespaces_of_self() -> tuple[int, ...]:
    """Return the inodes of our own pid namespace and of those we can see above."""
    return _told_of_self() or (Path("/proc/self/ns/pid").stat().st_ino,)


def _told_of_self() -> tuple[int, ...]:
    mine = os.pidfd_open(os.getpid())
    try:
        return pid_namespaces(mine)
    finally:
        os.close(mine)


def vsock_facts(conn: socket.socket) -> VsockFacts:
    """Return which machine connected to an AF_VSOCK socket, vsock(7).

    Raises RefusedError for a CID that is never a sandbox.
    """
    cid, _port = conn.getpeername()
    return VsockFacts(netns=network_namespace(), cid=take_cid(cid))


def network_namespace() -> int:
    """Return the inode of our network namespace; a CID means nothing without."""
    return Path("/proc/self/ns/net").stat().st_ino
