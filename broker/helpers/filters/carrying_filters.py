"""The filters of system calls of pumps and acceptors, which carry connections.

Any call beyond the list fails with EPERM rather than killing, so that a newer
interpreter's unexpected call costs an error, not all streams.

fcntl(2) can have the kernel send any signal to any process of the user (F_SETOWN,
F_SETSIG, O_ASYNC), so its commands are part of the list.  newfstatat(2) is not in it:
with AT_EMPTY_PATH it looks at a path as well, if that is not empty.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from broker.helpers.filters.descriptor_filter import PROT_EXEC, descriptor_rules
from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.seccomp import MSG_FASTOPEN, SeccompRules, words

_FIONBIO = 0x5421  # asm-generic/ioctls.h; how Python makes a socket non-blocking
_SOCKET_KIND = 0xF
_SOCKETS = words("""
 shutdown getsockname getsockopt fstat epoll_create1 epoll_ctl epoll_wait epoll_pwait
 clock_nanosleep gettid sigaltstack
""")


def pump_filter() -> bytes:
    """Return the BPF program of a pump, which moves bytes."""
    rules = _socket_rules()
    rules.allow(("recvmsg", "splice", "readv", "lseek"))
    for command in (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL):
        # guard: the pump may call fcntl with listed commands only
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
    rules.allow(("accept4",))
    # What it listens on would be a socket that connects, once it is shut down.
    # guard: an acceptor connects by no message
    rules.allow_if("sendmsg", rules.clear(2, MSG_FASTOPEN))
    unix = rules.equal(0, socket.AF_UNIX)
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        # guard: an acceptor makes no socket of datagrams
        rules.allow_if("socketpair", unix, rules.masked(1, _SOCKET_KIND, kind))
    return rules.program()


def _socket_rules() -> SeccompRules:
    rules = descriptor_rules(libseccomp.ERRNO(errno.EPERM))
    rules.allow(_SOCKETS)
    rules.allow_if("ioctl", rules.equal(1, _FIONBIO))
    rules.allow_if("mprotect", rules.clear(2, PROT_EXEC))
    return rules
