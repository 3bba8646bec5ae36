"""System-call filters: which calls a jailed process may make at all.

Here is the worker's filter, an allow-list; ``hardening``, ``jail``, ``program_filters``
and ``box_filters`` have the others.  A call that is not on the list gets an error and the
program continues (libraries try things they can do without); what only an
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
import struct
from collections.abc import Iterable
from functools import cache

from broker.core.errors import SetupError
from broker.helpers.process.libseccomp import ERRORS
from broker.helpers.process.libseccomp import seccomp as libseccomp

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_BPF_INSN_BYTES = 8
_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_FIONBIO = 0x5421
_FIONREAD = 0x541B
_F_DUPFD_CLOEXEC = 1030
_F_GETPIPE_SZ, _F_ADD_SEALS, _F_GET_SEALS = 1032, 1033, 1034
_F_SEAL_SEAL, _F_SEAL_SHRINK = 1, 2
_F_SEAL_ALL = 15
"""Those two, against growing and against writing."""
_SIOCOUTQ = 0x5411
_MFD_CLOEXEC_ALLOW_SEALING = 3


def words(text: str) -> tuple[str, ...]:
    """Return the names of calls in a text."""
    return tuple(text.split())


# Nothing honest in either jail comes near these.
NEVER = words("""
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

BASE = words("""
 read readv write writev close close_range recvmsg recvfrom sendmsg sendto shutdown
 accept accept4 getsockname getpeername getsockopt
 epoll_wait epoll_pwait epoll_pwait2 epoll_ctl poll ppoll select pselect6
 futex brk munmap mremap madvise fstat lseek
 rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall
 clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
 getrandom getpid gettid getppid sched_yield exit exit_group
""")


@cache
def worker_filter() -> bytes:
    """The BPF program of a worker: it reads, writes, waits and accepts.

    No path, no new socket but accepted ones, no process, no executable
    memory.  Sets nothing up: epoll, the wake-up pair and all sockets exist.
    For the pixels of frames, and in the place of shared memory that cannot be
    sealed, it makes anonymous files: sealable, in memory, of no huge pages.
    """
    rules = SeccompRules()
    rules.kill([*NEVER, "execve", "execveat", "fork", "vfork", "clone", "clone3"])
    rules.kill(["connect", "bind", "listen"])
    rules.allow(BASE)
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
    # The content goes into a pipe of the client's, which could make any
    # other write wait (worker.clipboard.serving).
    rules.allow_if("splice", rules.equal(5, os.SPLICE_F_NONBLOCK))
    # glibc's fstat() calls this; the jail's only directory is empty.
    rules.allow_if("newfstatat", rules.has(3, _AT_EMPTY_PATH))
    # What kind of file a dma-buf is, without asking a file system.
    rules.allow_if("statx", rules.equal(2, _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC))
    return rules.program()


class SeccompRules:
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
        """Return the BPF program."""
        with open(os.memfd_create("seccomp"), "w+b") as file:  # noqa: PTH123 -- a descriptor
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
            f"the kernel rejects the system-call filter: {reason}",
            hint="a kernel with CONFIG_SECCOMP_FILTER is needed",
        )


def lock_worker() -> None:
    """Shut the last door of a worker's jail.  One thread, no way back."""
    install(worker_filter())
