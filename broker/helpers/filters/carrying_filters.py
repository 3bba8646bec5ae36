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


# A container's sockets belong to a separate process. A sandbox can attach a descriptor
# to any byte that it writes to a UNIX socket. The process that reads the byte without
# asking for descriptors, or closes the socket with the byte unread, closes the
# descriptor, and close(2) of a TCP socket with SO_LINGER or of a file of FUSE returns
# when the sandbox likes: 16 to 20 s of a frozen broker were measured.
#
# So each container's lease has an *acceptor*, which accepts, asks for the pidfd of the
# process that connected, and has the bytes carried to our socket pair by a separate
# pump. `wayland-0`, whose connections have descriptors in them, goes from the acceptor
# to the worker through a socket pair of which the broker holds no end when the
# connection is sent. A worker's messages come up a pipe, because a pipe carries no
# descriptors, and content is written into a file of the broker's whose size is sealed.
# * SO_PASSRIGHTS (Linux 6.16) refuses descriptors, and is set on the other UNIX
#   sockets: links, VMMs. It cannot be the only guard, because Debian 12 has Linux 6.1,
#   and Wayland needs descriptors. Before 6.16 the far end of a link over a UNIX socket,
#   can still delay the pump and the broker; a link over AF_VSOCK cannot.
# * Asking for descriptors and closing them in a thread was rejected: when the process
#   has no free number the kernel drops them in the reading thread, and a thread that
#   waits for FUSE cannot be ended.
# * The acceptor ends its sandbox's lease when it ends. The path is made after the
#   process has been started, so that the broker never is the last to hold a listening
#   socket.
# * Acceptors are forked from a warm process, by the same code as workers and keepers
#   are: a new Python program took longer to start than all else between a box and its
#   window. The warm process passes the listening sockets on while they have no path,
#   and closes its copies before it answers, so it never is the last to hold one either.
#   The price is that all acceptors of a broker share the layout of their address space;
#   they interpret no byte.
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
