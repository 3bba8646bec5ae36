"""Filters of system calls for processes that serve only descriptors which they have.

None of them can open, connect, execute, fork, trace or signal.  Frameguard, netguard,
flowguard, switch and the process of a security key install theirs before they read a
byte, and any other call kills them.  For a pump or an acceptor any other call fails with
EPERM, so that a newer interpreter's unexpected call costs an error, not all streams.

Where a call has many uses, its arguments are part of the list: fcntl(2) can
have the kernel send any signal to any process of the user (F_SETOWN,
F_SETSIG, O_ASYNC), mmap(2) can make written memory executable, sendto(2) can
address another socket than the connected one.  newfstatat(2) is not in it: with
AT_EMPTY_PATH it looks at a path as well, if that is not empty.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from broker.helpers.process.hardening import confine
from broker.helpers.process.libseccomp import seccomp as libseccomp
from broker.helpers.process.seccomp import SeccompRules, words

_FIONBIO = 0x5421  # asm-generic/ioctls.h; how Python makes a socket non-blocking
_PROT_EXEC = 4
_POINTER = 0xFFFFFFFFFFFFFFFF

_ALL = words("""
 read write recvfrom close brk munmap mremap madvise futex clock_gettime getpid getrandom
 rt_sigaction rt_sigprocmask rt_sigreturn restart_syscall exit exit_group
""")
_SOCKETS = words("""
 shutdown getsockname getsockopt fstat epoll_create1 epoll_ctl epoll_wait epoll_pwait
 clock_nanosleep gettid sigaltstack
""")
_SOCKET_KIND = 0xF


def keep_descriptors_only(*more: str) -> None:
    """Give up every system call but those of the list and ``more``."""
    rules = _rules(libseccomp.KILL_PROCESS)
    rules.allow(("poll", "ppoll", *more))
    confine(rules.program())


def pump_filter() -> bytes:
    """Return the BPF program of a pump, which moves bytes."""
    rules = _socket_rules()
    rules.allow(("recvmsg", "splice", "readv", "lseek"))
    for command in (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL):
        # guard: the pump names what fcntl does
        rules.allow_if("fcntl", rules.equal(1, command))
    setting = rules.equal(1, fcntl.F_SETFL)
    # guard: the pump has no asynchronous descriptor
    rules.allow_if("fcntl", setting, rules.clear(2, fcntl.FASYNC))
    rules.allow_if("pipe2", rules.equal(1, os.O_CLOEXEC | os.O_NONBLOCK))
    return rules.program()


def acceptor_filter() -> bytes:
    """Return the BPF program of an acceptor, which passes connections on.

    It receives no descriptor: with a socket of datagrams, which a container could send
    to it, it could send to every UNIX socket of the user that has a path.
    """
    rules = _socket_rules()
    # guard: an acceptor receives no descriptor
    rules.allow(("accept4", "sendmsg"))
    unix = rules.equal(0, socket.AF_UNIX)
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        # guard: an acceptor makes no socket of datagrams
        rules.allow_if("socketpair", unix, rules.masked(1, _SOCKET_KIND, kind))
    return rules.program()


def _socket_rules() -> SeccompRules:
    rules = _rules(libseccomp.ERRNO(errno.EPERM))
    rules.allow(_SOCKETS)
    rules.allow_if("ioctl", rules.equal(1, _FIONBIO))
    rules.allow_if("mprotect", rules.clear(2, _PROT_EXEC))
    return rules


def _rules(otherwise: int) -> SeccompRules:
    rules = SeccompRules(otherwise)
    rules.allow(_ALL)
    # A name server's socket could send to every address of the machine's network.
    # guard: a confined process sends to no address
    rules.allow_if("sendto", rules.masked(4, _POINTER, 0))
    # guard: a confined process maps no code
    rules.allow_if("mmap", rules.clear(2, _PROT_EXEC))
    return rules
