"""System-call filters: which calls a jailed process may make at all.

Both filters are allow-lists.  A call on neither list gets an error and the
program goes on (libraries try things they can do without); what only an
attacker calls kills the process at once, so that an attempt shows as a death
by SIGSYS.  A call of another architecture (32-bit, x32) kills too.

The rules are compiled by libseccomp into BPF *before* the jail is entered:
the jailed side only hands the finished program to prctl(2) (seccomp(2)).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import tempfile
from collections.abc import Iterable
from functools import cache

from broker.core.errors import SetupError
from broker.core.libseccomp import ERRORS
from broker.core.libseccomp import seccomp as libseccomp

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_BPF_INSN_BYTES = 8
_PROT_EXEC = 4
_PROT_WRITE = 2
_AT_EMPTY_PATH = 0x1000
_FIONBIO = 0x5421
_FIONREAD = 0x541B
_TCGETS = 0x5401
_TCGETS2 = 0x802C542A
_F_DUPFD_CLOEXEC = 1030
_F_GETPIPE_SZ, _F_ADD_SEALS, _F_GET_SEALS = 1032, 1033, 1034
_F_SEAL_SEAL, _F_SEAL_SHRINK = 1, 2
_F_SEAL_ALL = 15
"""Those two, against growing and against writing."""
_F_SETPIPE_SZ = 1031
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_GETLK, F_SETLK, F_SETLKW, and the above
_WAYPIPE_FCNTL = (
    *(0, 1, 2, 3, 5, 6, 7, _F_DUPFD_CLOEXEC, _F_SETPIPE_SZ),
    *(_F_GETPIPE_SZ, _F_ADD_SEALS, _F_GET_SEALS),
)
_SIOCOUTQ = 0x5411
_MFD_CLOEXEC_ALLOW_SEALING = 3
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
_CLONE_NEW = 0x7E020000


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Nothing honest in either jail comes near these.
_KILL = _words("""
 ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd pidfd_open
 pidfd_send_signal kcmp bpf io_uring_setup io_uring_enter io_uring_register
 keyctl add_key request_key userfaultfd perf_event_open
 mount umount2 pivot_root chroot move_mount open_tree fsopen fsconfig fsmount
 fspick mount_setattr setns unshare
 init_module finit_module delete_module kexec_load kexec_file_load reboot
 open_by_handle_at name_to_handle_at swapon swapoff acct quotactl
 modify_ldt iopl ioperm personality lookup_dcookie nfsservctl
 setuid setgid setreuid setregid setresuid setresgid setgroups capset
""")

_BASE = _words("""
 read readv write writev close close_range recvmsg recvfrom sendmsg sendto shutdown
 accept accept4 getsockname getpeername getsockopt
 epoll_wait epoll_pwait epoll_pwait2 epoll_ctl poll ppoll select pselect6
 futex brk munmap mremap madvise fstat lseek
 rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall
 clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
 getrandom getpid gettid getppid sched_yield exit exit_group
""")

# A C program that is started by exec, forks, and makes threads, memfds and
# connections to the two sockets of its directory.
_WAYPIPE = _words("""
 execve fork vfork wait4 waitid kill tgkill tkill
 connect bind listen setsockopt recvmmsg sendmmsg
 epoll_create epoll_create1 eventfd2 pipe pipe2 dup dup2 dup3
 timerfd_create timerfd_settime timerfd_gettime signalfd4
 memfd_create ftruncate fallocate pread64 pwrite64 preadv pwritev newfstatat stat
 lstat statx access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir
 getdents64 statfs fstatfs umask
 set_tid_address set_robust_list get_robust_list rseq arch_prctl membarrier mlock
 munlock msync mincore
 sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler getcpu
 getrlimit prlimit64 getrusage times sysinfo uname getuid geteuid getgid getegid
 getresuid getresgid getgroups getpgrp getpgid setpgid getsid setsid getpriority
 rt_sigpending rt_sigsuspend rt_sigtimedwait pause alarm setitimer getitimer
 splice tee
""")


@cache
def worker_filter() -> bytes:
    """The BPF program of a worker: it reads, writes, waits and accepts.

    No path, no new socket but accepted ones, no process, no executable
    memory.  Sets nothing up: epoll, the wake-up pair and all sockets exist.
    For the pixels of frames, and in the place of shared memory that cannot be
    sealed, it makes anonymous files: sealable, in memory, of no huge pages.
    """
    rules = _Rules()
    rules.kill([*_KILL, "execve", "execveat", "fork", "vfork", "clone", "clone3"])
    rules.kill(["connect", "bind", "listen"])
    rules.allow(_BASE)
    rules.allow_if("mmap", rules.clear(2, _PROT_EXEC))
    rules.allow_if("mprotect", rules.clear(2, _PROT_EXEC))
    rules.allow_if("ioctl", rules.equal(1, _FIONBIO))
    rules.allow_if("ioctl", rules.equal(1, _FIONREAD))
    # How much of a recording the guest has not taken yet, after a revoke.
    rules.allow_if("ioctl", rules.equal(1, _SIOCOUTQ))
    for command in (1, 2, 3, _F_DUPFD_CLOEXEC):  # F_GETFD, F_SETFD, F_GETFL
        rules.allow_if("fcntl", rules.equal(1, command))
    # Without O_ASYNC: no signal at each byte, to the process that F_SETOWN names.
    rules.allow_if("fcntl", rules.equal(1, fcntl.F_SETFL), rules.clear(2, fcntl.FASYNC))
    rules.allow_if("fcntl", rules.equal(1, _F_GET_SEALS))
    # Whether a descriptor is a pipe, without asking the file system it is on.
    rules.allow_if("fcntl", rules.equal(1, _F_GETPIPE_SZ))
    for seals in (_F_SEAL_SHRINK, _F_SEAL_SHRINK | _F_SEAL_SEAL, _F_SEAL_ALL):
        rules.allow_if("fcntl", rules.equal(1, _F_ADD_SEALS), rules.equal(2, seals))
    # A client's memory is looked at (fstatfs: is it tmpfs?) and read; ours is
    # made and written.  All of these take a descriptor, never a path.
    # A selection on a waypipe stream has a pipe here.
    rules.allow(["fstatfs", "preadv", "preadv2", "pread64", "pwrite64", "ftruncate"])
    rules.allow_if("pipe2", rules.equal(1, os.O_CLOEXEC | os.O_NONBLOCK))
    rules.allow_if("memfd_create", rules.equal(1, _MFD_CLOEXEC_ALLOW_SEALING))
    # Holes of a buffer are filled, and so counted, before they are shown; with no
    # flag (which would punch or move).
    rules.allow_if("fallocate", rules.equal(1, 0))
    # The content goes into a pipe of the client's, which could make any
    # other write wait (session.worker_serving).
    rules.allow_if("splice", rules.equal(5, os.SPLICE_F_NONBLOCK))
    # What glibc's fstat() has become; the jail's only directory is empty.
    rules.allow_if("newfstatat", rules.has(3, _AT_EMPTY_PATH))
    return rules.program()


@cache
def keeper_filter() -> bytes:
    """The BPF program of a keeper: it stays in the session, so a deny-list.

    It makes UNIX connections, waits and kills its child; it starts nothing
    and inspects no other process.
    """
    rules = _Rules(default=libseccomp.ALLOW)
    rules.kill([*_KILL, "execve", "execveat", "fork", "vfork", "clone", "clone3"])
    rules.deny_if("socket", libseccomp.Arg(0, libseccomp.NE, socket.AF_UNIX))
    return rules.program()


@cache
def waypipe_filter() -> bytes:
    """The BPF program of a waypipe client (installed by bubblewrap).

    execve has to be allowed, since bubblewrap's own exec comes after the
    filter; nothing executable is visible but waypipe.  Files can be opened
    for reading only, sockets are UNIX sockets.
    """
    rules = _Rules()
    rules.kill([*_KILL, "execveat"])
    rules.allow([*_BASE, *_WAYPIPE])
    write_flags = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
    rules.allow_if("open", rules.clear(1, write_flags))
    rules.allow_if("openat", rules.clear(2, write_flags))
    rules.allow_if("clone", rules.clear(0, _CLONE_NEW))
    # Its flags are behind a pointer; glibc falls back to clone.
    rules.deny("clone3", errno.ENOSYS)
    rules.allow_if("socket", rules.equal(0, socket.AF_UNIX))
    rules.allow_if("socketpair", rules.equal(0, socket.AF_UNIX))
    for request in (_FIONBIO, _FIONREAD, _TCGETS, _TCGETS2):
        rules.allow_if("ioctl", rules.equal(1, request))
    # The loader maps code; no code makes written memory executable.
    rules.allow_if("mmap", rules.clear(2, _PROT_EXEC))
    rules.allow_if("mmap", rules.masked(2, _PROT_EXEC | _PROT_WRITE, _PROT_EXEC))
    rules.allow_if("mprotect", rules.clear(2, _PROT_EXEC))
    # Commands that read or set flags, locks of its own files, duplicates, and
    # what memfds have; none that names a process to be signalled (F_SETOWN).
    for command in _WAYPIPE_FCNTL:
        rules.allow_if("fcntl", rules.equal(1, command))
    rules.allow_if("fcntl", rules.equal(1, fcntl.F_SETFL), rules.clear(2, fcntl.FASYNC))
    # PR_SET_NAME, PR_GET_NAME, PR_SET_PDEATHSIG: names of threads, own death.
    for option in (15, 16, 1):
        rules.allow_if("prctl", rules.equal(0, option))
    return rules.program()


# What QEMU asks for and does without: a probe of these is no attack.
_VMM_LACKS = frozenset(
    {"io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd"}
)


@cache
def vmm_filter() -> bytes:
    """The BPF program of QEMU and vhost-device-vsock (installed by bubblewrap).

    A deny-list: what they call depends on their version and on KVM, and the
    namespaces around them leave few calls anything to act on.  It closes the
    kernel's large interfaces (io_uring, bpf, keys, mounts), other processes'
    memory and descriptors, further namespaces, and sockets that are not UNIX
    ones.  QEMU's own filter (``-sandbox``) comes on top.
    """
    rules = _Rules(default=libseccomp.ALLOW)
    rules.kill([name for name in _KILL if name not in _VMM_LACKS])
    rules.kill(["execveat"])
    for name in _VMM_LACKS:
        rules.deny(name, errno.ENOSYS)
    # Its flags are behind a pointer; glibc falls back to clone.
    rules.deny("clone3", errno.ENOSYS)
    for bit in range(32):
        if _CLONE_NEW >> bit & 1:
            rules.deny_if("clone", rules.has(0, 1 << bit))
    rules.deny_if("socket", libseccomp.Arg(0, libseccomp.NE, socket.AF_UNIX))
    return rules.program()


class _Rules:
    """libseccomp with the few kinds of rule that we use."""

    def __init__(self, default: int | None = None) -> None:
        refuse = libseccomp.ERRNO(errno.EPERM)
        self._filter = libseccomp.SyscallFilter(refuse if default is None else default)
        self._filter.set_attr(libseccomp.Attr.ACT_BADARCH, libseccomp.KILL_PROCESS)
        # prctl(PR_SET_NO_NEW_PRIVS) is done by the code that installs the program.
        self._filter.set_attr(libseccomp.Attr.CTL_NNP, 0)

    def _add(self, action: int, name: str, *args: object) -> None:
        try:
            number = libseccomp.resolve_syscall(libseccomp.Arch.NATIVE, name)
        except ERRORS:
            return  # libseccomp does not know it, so the default holds
        if number < 0:
            return  # not on this architecture (open and fork on arm64)
        self._filter.add_rule(action, number, *args)

    def allow(self, names: Iterable[str]) -> None:
        for name in names:
            self._add(libseccomp.ALLOW, name)

    def kill(self, names: Iterable[str]) -> None:
        for name in names:
            self._add(libseccomp.KILL_PROCESS, name)

    def deny(self, name: str, code: int) -> None:
        self._add(libseccomp.ERRNO(code), name)

    def deny_if(self, name: str, *args: object) -> None:
        self._add(libseccomp.ERRNO(errno.EPERM), name, *args)

    def allow_if(self, name: str, *args: object) -> None:
        self._add(libseccomp.ALLOW, name, *args)

    @staticmethod
    def equal(index: int, value: int) -> object:
        """The low 32 bits, as the kernel reads an int, are ``value``."""
        return libseccomp.Arg(index, libseccomp.MASKED_EQ, 0xFFFFFFFF, value)

    @staticmethod
    def masked(index: int, mask: int, value: int) -> object:
        return libseccomp.Arg(index, libseccomp.MASKED_EQ, mask, value)

    @staticmethod
    def clear(index: int, mask: int) -> object:
        return libseccomp.Arg(index, libseccomp.MASKED_EQ, mask, 0)

    @staticmethod
    def has(index: int, mask: int) -> object:
        return libseccomp.Arg(index, libseccomp.MASKED_EQ, mask, mask)

    def program(self) -> bytes:
        with tempfile.TemporaryFile() as file:
            self._filter.export_bpf(file)
            file.seek(0)
            return file.read()


_libc = ctypes.CDLL(None, use_errno=True)


def install(program: bytes) -> None:
    """Put the calling process, which has one thread, under a filter for good.

    The process must have no-new-privileges set.  Raises SetupError when the
    kernel has no seccomp filters.
    """
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: number of instructions, where they are
    wanted = struct.pack("HP", len(program) // _BPF_INSN_BYTES, ctypes.addressof(code))
    done = _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, wanted, 0, 0)
    if done != 0:
        reason = os.strerror(ctypes.get_errno())
        raise SetupError(
            f"the kernel takes no system-call filter: {reason}",
            hint="a kernel with CONFIG_SECCOMP_FILTER is needed",
        )


def lock_worker() -> None:
    """Shut the last door of a worker's jail.  One thread, no way back."""
    install(worker_filter())
