"""System-call filters: which calls a jailed process may make at all.

``worker_jail``, ``session_filters``, ``jail``, ``program_filters`` and ``box_filters``
have the filters.  A call that is not on the list gets an error and the
program continues (libraries try things they can do without); what only an
attacker calls kills the process at once, so that an attempt shows as a death
by SIGSYS.  A call of another architecture (32-bit, x32) kills too, but in a box: each
such death is an entry in the machine's audit queue.

The rules are compiled by libseccomp into BPF *before* the jail is entered:
the jailed side only hands the finished program to prctl(2) (seccomp(2)).
Fork servers, their children and starters of jails run this module.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterable

from broker.helpers.filters.libseccomp import ERRORS
from broker.helpers.filters.libseccomp import seccomp as libseccomp


def words(text: str) -> tuple[str, ...]:
    """Return the names of calls in a text."""
    return tuple(text.split())


# Nothing honest in either jail comes near these.
NEVER = words("""
 ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd pidfd_open
 pidfd_send_signal kcmp bpf io_uring_setup io_uring_enter io_uring_register
 keyctl add_key request_key userfaultfd perf_event_open
 mount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen fsconfig fsmount
 fspick mount_setattr setns unshare
 init_module finit_module delete_module kexec_load kexec_file_load reboot
 open_by_handle_at name_to_handle_at swapon swapoff acct quotactl quotactl_fd
 modify_ldt iopl ioperm personality lookup_dcookie nfsservctl
 setuid setgid setreuid setregid setresuid setresgid setgroups capset
""")


LATE_CALLS = {
    "quotactl_fd": 443,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_setattr": 469,
}
"""Calls that libseccomp may be too old to know; the same numbers everywhere."""
_MODES = (
    *(("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2)),
    *(("open", 2), ("openat", 3), ("creat", 1)),
    *(("mknod", 1), ("mknodat", 2), ("mkdir", 1), ("mkdirat", 2)),
)
"""Calls that set a file's mode, and which argument that is."""


MSG_FASTOPEN = 0x20000000
"""Connect to the address of the message (tcp(7)); ``socket`` has no name for it."""
_MESSAGES = (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3))
"""Calls that send a message, and which argument has its flags."""
_TCP_FASTOPEN_CONNECT = 30
MAP_HUGETLB = 0x40000
_HUGE_PAGES = (
    ("mmap", 3, MAP_HUGETLB, errno.ENOMEM),
    ("mmap2", 3, MAP_HUGETLB, errno.ENOMEM),
    # Chromium asks with all flags at once, and ends unless that is EINVAL.
    ("memfd_create", 1, 0x4, errno.EINVAL),
    ("shmget", 2, 0o4000, errno.ENOMEM),
)
"""MAP_HUGETLB, MFD_HUGETLB and SHM_HUGETLB, which argument has each, and the answer."""
_F_SETLEASE = 1024
_SO_RESERVE_MEM, _IPV6_FLOWLABEL_MGR = 73, 32


class SeccompRules:
    """libseccomp with the few kinds of rule that we use.

    ``quiet``: a call of another architecture is answered, and not recorded.
    """

    def __init__(self, default: int | None = None, *, quiet: bool = False) -> None:
        refuse = libseccomp.ERRNO(errno.EPERM)
        self._filter = libseccomp.SyscallFilter(refuse if default is None else default)
        foreign = libseccomp.ERRNO(errno.ENOSYS) if quiet else libseccomp.KILL_PROCESS
        self._filter.set_attr(libseccomp.Attr.ACT_BADARCH, foreign)
        # prctl(PR_SET_NO_NEW_PRIVS) is done by the code that installs the program.
        self._filter.set_attr(libseccomp.Attr.CTL_NNP, 0)

    def _add(self, action: int, name: str, *args: object) -> None:
        number = LATE_CALLS.get(name)
        try:
            if number is None:
                number = libseccomp.resolve_syscall(libseccomp.Arch.NATIVE, name)
        except ERRORS:
            return  # libseccomp does not know it, so the default holds
        if number < 0:
            return  # not on this architecture (open and fork on arm64)
        self._filter.add_rule(action, number, *args)

    def allow(self, names: Iterable[str]) -> None:
        """Allow these calls."""
        for name in names:
            self._add(libseccomp.ALLOW, name)

    def kill(self, names: Iterable[str]) -> None:
        """Kill the process at these calls."""
        for name in names:
            self._add(libseccomp.KILL_PROCESS, name)

    def kill_if(self, name: str, *args: object) -> None:
        """Kill the process at a call with these arguments."""
        self._add(libseccomp.KILL_PROCESS, name, *args)

    def deny(self, name: str, code: int) -> None:
        """Answer a call with this errno."""
        self._add(libseccomp.ERRNO(code), name)

    def refuse(self, name: str, code: int, *args: object) -> None:
        """Answer a call with these arguments with this errno."""
        self._add(libseccomp.ERRNO(code), name, *args)

    def deny_if(self, name: str, *args: object) -> None:
        """Answer a call with these arguments with EPERM."""
        self._add(libseccomp.ERRNO(errno.EPERM), name, *args)

    def allow_if(self, name: str, *args: object) -> None:
        """Allow a call with these arguments."""
        self._add(libseccomp.ALLOW, name, *args)

    @staticmethod
    def equal(index: int, value: int) -> object:
        """The low 32 bits, as the kernel reads an int, are ``value``."""
        return libseccomp.Arg(index, libseccomp.MASKED_EQ, 0xFFFFFFFF, value)

    @staticmethod
    def masked(index: int, mask: int, value: int) -> object:
        """The bits of ``mask`` are ``value``."""
        return libseccomp.Arg(index, libseccomp.MASKED_EQ, mask, value)

    @staticmethod
    def clear(index: int, mask: int) -> object:
        """No bit of ``mask`` is set."""
        return libseccomp.Arg(index, libseccomp.MASKED_EQ, mask, 0)

    @staticmethod
    def has(index: int, mask: int) -> object:
        """All bits of ``mask`` are set."""
        return libseccomp.Arg(index, libseccomp.MASKED_EQ, mask, mask)

    def program(self) -> bytes:
        """Return the BPF program.

        libseccomp writes it into a file in memory.
        """
        with open(os.memfd_create("seccomp"), "w+b") as file:  # noqa: PTH123 -- a descriptor
            self._filter.export_bpf(file)
            file.seek(0)
            return file.read()


def close_set_id(rules: SeccompRules) -> None:
    """Deny setting setuid and setgid bits of files.

    The mount is nosuid; another user of this machine has another mount.
    """
    for bit in (stat.S_ISUID, stat.S_ISGID):
        for name, argument in _MODES:
            rules.refuse(name, errno.EPERM, rules.has(argument, bit))
    # Its mode is passed by a pointer; programs fall back to openat.
    # guard: a guest hides no setuid bit behind a pointer
    rules.deny("openat2", errno.ENOSYS)


def close_fast_open(rules: SeccompRules) -> None:
    """Add rules that deny TCP Fast Open.

    That is a connection which sendto(2) or sendmsg(2) makes, or the first write after
    setsockopt(2).  The processes of ``session_filters`` may hold TCP sockets of others.
    Neither a rule about connect(2) nor Landlock's about TCP applies to it.
    """
    for name, flags in _MESSAGES:
        # guard: no message connects a socket
        rules.deny_if(name, rules.has(flags, MSG_FASTOPEN))
    tcp = rules.equal(1, socket.IPPROTO_TCP)
    # guard: no socket connects with its first message
    rules.deny_if("setsockopt", tcp, rules.equal(2, _TCP_FASTOPEN_CONNECT))


def close_families(rules: SeccompRules) -> None:
    """Deny pairs of sockets that are not UNIX ones.

    The kernel makes both sockets, and loads the module of their family, before it
    asks whether the family has pairs; TIPC has.
    """
    others = libseccomp.Arg(0, libseccomp.NE, socket.AF_UNIX)
    # guard: no pair of sockets is of a family that socket(2) may not make
    rules.refuse("socketpair", errno.EAFNOSUPPORT, others)


def close_pools(rules: SeccompRules) -> None:
    """Answer as if no huge page were free, and as a kernel without some calls.

    For all that runs something of a sandbox's, or reads it.

    The kernel has one pool of pages for the machine, whose user reserves it for micro
    VMs.  Of contexts of aio there are 65,536 (fs.aio-max-nr), which one call can take; of
    flow labels 4,096; memory that a socket reserves is counted as TCP's of all
    (tcp_mem) though nothing is in it.  A lease on a file of the user's, also on one that
    a box may only read, has each program that opens it wait for 45 seconds (fcntl(2)).
    """
    for name in ("fcntl", "fcntl64"):
        # guard: a box has no program outside wait for a file
        rules.refuse(name, errno.EINVAL, rules.equal(1, _F_SETLEASE))
    for level, option in (
        (socket.SOL_SOCKET, _SO_RESERVE_MEM),
        (socket.IPPROTO_IPV6, _IPV6_FLOWLABEL_MGR),
    ):
        # guard: a box reserves nothing that sockets of all share
        rules.refuse(
            "setsockopt",
            errno.ENOPROTOOPT,
            rules.equal(1, level),
            rules.equal(2, option),
        )
    # guard: a box takes no contexts of aio
    rules.deny("io_setup", errno.ENOSYS)
    for name, argument, flag, answer in _HUGE_PAGES:
        # guard: a box takes no huge pages
        rules.refuse(name, answer, rules.has(argument, flag))
