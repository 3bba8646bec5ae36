"""System-call filters of programs that bubblewrap starts: not our own code.

Apart from ``seccomp``, which every worker has: here are the lists of
QEMU and its backend; ``box_filters`` has those of what runs in a box.

The host compiles them for a machine's processes, a session child for the server of a
folder.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import cache

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.seccomp import (
    MAP_HUGETLB,
    MSG_FASTOPEN,
    NEVER,
    SeccompRules,
    close_families,
    close_pools,
    close_set_id,
    words,
)

_PROT_EXEC, _PROT_WRITE = 4, 2
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
CLONE_NEW = 0x7E020000
_CLONE_THREAD = 0x10000

# QEMU probes for these and works without them, so a call is not an attack: it is
# answered by ENOSYS and does not kill.
_VMM_LACKS = frozenset(
    {"io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd"}
)


@cache
def vmm_filter() -> bytes:
    """Compile the filter of QEMU and vhost-device-vsock (installed by bubblewrap).

    A deny-list: what they call depends on their version and on KVM, and the
    namespaces around them leave few calls anything to act on.  It closes the
    kernel's large interfaces (io_uring, bpf, keys, mounts), other processes'
    memory and descriptors, further namespaces, and sockets that are not UNIX
    ones.  QEMU's own filter (``-sandbox``) comes on top.
    """
    return _deny_list().program()


@cache
def renderer_filter() -> bytes:
    """Compile the filter of vhost-user-gpu (by bubblewrap): the VMM's deny-list.

    It has threads only, and takes none of what the kernel counts for its user.
    """
    rules = _deny_list()
    close_pools(rules)
    rules.kill(["fork", "vfork"])
    # guard: a renderer makes threads and no processes
    rules.kill_if("clone", rules.clear(0, _CLONE_THREAD))
    for name in ("inotify_init", "inotify_init1", "fanotify_init", "mq_open"):
        # guard: a renderer watches no files and has no message queues
        rules.deny(name, errno.EPERM)
    return rules.program()


def _deny_list(needs: frozenset[str] = frozenset()) -> SeccompRules:
    """Return the deny-list of programs of machines, without what one ``needs``."""
    rules = SeccompRules(default=libseccomp.ALLOW)
    rules.kill([name for name in NEVER if name not in _VMM_LACKS | needs])
    rules.kill(["execveat"])
    for name in _VMM_LACKS:
        rules.deny(name, errno.ENOSYS)
    # Its flags are passed by a pointer; glibc falls back to clone.
    rules.deny("clone3", errno.ENOSYS)
    for bit in range(32):
        if CLONE_NEW >> bit & 1:
            rules.deny_if("clone", rules.has(0, 1 << bit))
    rules.deny_if("socket", libseccomp.Arg(0, libseccomp.NE, socket.AF_UNIX))
    close_families(rules)
    return rules


# A C program that is started by exec, and what its loader does before main().
_PORT_MUX = words("""
 execve read write lseek pread64 close fstat newfstatat access readlink brk munmap arch_prctl
 set_tid_address set_robust_list rseq prlimit64 getrandom clock_gettime
 connect recvfrom recvmsg shutdown poll ppoll restart_syscall
 mremap madvise futex exit exit_group
""")


@cache
def port_mux_filter() -> bytes:
    """Compile the filter of ``_portmux`` (installed by bubblewrap): an allow-list.

    It reads and writes its descriptors and connects to UNIX sockets.  execve has to be
    allowed, since bubblewrap's own exec comes after the filter.
    """
    rules = SeccompRules()
    rules.kill([*NEVER, "execveat", "fork", "vfork", "clone", "clone3"])
    rules.kill(["bind", "listen"])
    rules.allow(_PORT_MUX)
    # guard: a machine's port program connects by no message
    for name, flags in (("sendmsg", 2), ("sendto", 3)):
        rules.allow_if(name, rules.clear(flags, MSG_FASTOPEN))
    write_flags = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
    # guard: a machine's port program opens no file for writing
    rules.allow_if("openat", rules.clear(2, write_flags))
    # guard: a machine's port program makes UNIX sockets only
    rules.allow_if("socket", rules.equal(0, socket.AF_UNIX))
    # The loader maps code; no code makes written memory executable.
    small = rules.clear(3, MAP_HUGETLB)
    rules.allow_if("mmap", rules.clear(2, _PROT_EXEC), small)
    written = rules.masked(2, _PROT_EXEC | _PROT_WRITE, _PROT_EXEC)
    rules.allow_if("mmap", written, small)
    rules.allow_if("mprotect", rules.clear(2, _PROT_EXEC))
    return rules.program()


# virtiofsd enters its directory (chroot), keeps the working directory of each thread
# apart (unshare), and takes the guest's user for what that makes (setresuid): all of
# it inside a user namespace with one user.  It installs an allow-list of its then.
_FOLDER_NEEDS = frozenset({"chroot", "unshare", "capset", "setresuid", "setresgid"})


@cache
def folder_server_filter() -> bytes:
    """Compile the filter of virtiofsd (by bubblewrap): the VMM's deny-list.

    setgroups(2) is answered by success and does nothing: a user namespace without
    privilege refuses it, and virtiofsd does not start then.
    """
    rules = _deny_list(_FOLDER_NEEDS | {"setgroups"})
    close_pools(rules)
    rules.refuse("setgroups", 0)
    for bit in range(32):
        if CLONE_NEW >> bit & 1:
            # guard: a folder's server makes no namespaces
            rules.deny_if("unshare", rules.has(0, 1 << bit))
    # guard: a guest makes no setuid files in a folder
    close_set_id(rules)
    return rules.program()
