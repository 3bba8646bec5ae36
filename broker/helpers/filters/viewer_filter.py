"""The system-call filter of the viewer.

A child of the fork server of helpers compiles it; the viewer reads it from a pipe and
installs it.
"""

from __future__ import annotations

import errno
import socket

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.seccomp import close_set_id
from broker.helpers.filters.session_filters import (
    CLONE_THREAD,
    in_session,
    keep_attributes,
)

_SOCKET_KIND = 0xF
_FILE_FLAGS = (0x40086602, 0x40046602, 0x401C5820, 0x40087602)
"""FS_IOC_SETFLAGS and FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_SETVERSION."""


def viewer_filter(pid: int) -> bytes:
    """Compile the filter of the viewer, this process: it connects to nothing.

    It listens on sockets that have a path, for its sandboxes' keepers, and gets
    connections from the processes that the starter forks for it.
    """
    rules = in_session(frozenset({"pidfd_send_signal"}), pid)
    rules.deny("clone3", errno.ENOSYS)
    # guard: the viewer makes threads and no processes
    rules.kill_if("clone", rules.clear(0, CLONE_THREAD))
    # guard: the viewer connects to no service of the session
    rules.deny("connect", errno.EACCES)
    # A datagram needs no connection, and a filter cannot read its address.
    for call in ("socket", "socketpair"):
        # SOCK_RAW: the kernel makes a socket of datagrams of it, too.
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            # guard: the viewer sends nothing to a socket that it is not connected to
            rules.deny_if(call, rules.masked(1, _SOCKET_KIND, kind))
    linger = rules.equal(2, socket.SO_LINGER)
    # Of whom it gives it to: the last process that closes it waits.
    # guard: a viewer makes no descriptor slow to close
    rules.deny_if("setsockopt", rules.equal(1, socket.SOL_SOCKET), linger)
    keep_attributes(rules)
    for name in ("fsetxattr", "fremovexattr"):
        # guard: a file that a viewer may read keeps its attributes
        rules.deny(name, errno.EPERM)
    for request in _FILE_FLAGS:
        # guard: a file that a viewer may read keeps its flags
        rules.deny_if("ioctl", rules.equal(1, request))
    # Its own are made with this one.
    other_mode = libseccomp.Arg(1, libseccomp.NE, 0o600)
    # guard: a file that a viewer may read is not opened to others
    rules.deny_if("fchmod", other_mode)
    # guard: the viewer makes no file setuid for another user of the machine
    close_set_id(rules)
    for number in set(range(1, 65)) - {9, 15}:  # all but SIGKILL and SIGTERM
        # A session child that is stopped would end nothing with its permit.
        # guard: the viewer ends processes and stops none
        rules.deny_if("pidfd_send_signal", rules.equal(1, number))
    return rules.program()
