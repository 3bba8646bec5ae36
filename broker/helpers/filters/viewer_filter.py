"""The system-call filter of the viewer."""

from __future__ import annotations

import errno
import socket

from broker.helpers.filters.seccomp import close_set_id, words
from broker.helpers.filters.session_filters import CLONE_THREAD, in_session

_SOCKET_KIND = 0xF
_BY_PATH = words("""
 chmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat utimensat
 setxattr lsetxattr removexattr lremovexattr truncate
""")
"""Changes of a file that Landlock does not govern, or did not always."""
_SEEN_BY_PATH = words("""
 inotify_init inotify_init1 inotify_add_watch fanotify_init fanotify_mark
 getxattr lgetxattr listxattr llistxattr
""")
"""What tells of files that cannot be opened, and is not governed by Landlock either."""
_LATE = {"setxattrat": 463, "getxattrat": 464, "listxattrat": 465}
_LATE |= {"removexattrat": 466, "file_setattr": 469}
"""Those of Linux 6.13 and 6.17; the same numbers everywhere."""


def viewer_filter(pid: int) -> bytes:
    """Compile the filter of the viewer, this process: it connects to nothing.

    It listens on sockets that have a path, for its sandboxes' keepers and for the mixer,
    and gets connections from the processes that the starter forks for it.
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
    # Of whom it gives it to: the last one that closes it waits.
    # guard: a viewer makes no descriptor slow to close
    rules.deny_if("setsockopt", rules.equal(1, socket.SOL_SOCKET), linger)
    for name in _BY_PATH:
        # guard: a file of the user's keeps its mode, owner, times and attributes
        rules.deny(name, errno.EPERM)
    for name in _SEEN_BY_PATH:
        # guard: a viewer hears of no file that it cannot open
        rules.deny(name, errno.EACCES)
    for number in _LATE.values():
        # guard: a file keeps its attributes where libseccomp does not know the call
        rules.deny_number(number, errno.EPERM)
    # guard: the viewer makes no file setuid for another user of the machine
    close_set_id(rules)
    for number in set(range(1, 65)) - {9, 15}:  # all but SIGKILL and SIGTERM
        # A session child that is stopped would end nothing with its permit.
        # guard: the viewer ends processes and stops none
        rules.deny_if("pidfd_send_signal", rules.equal(1, number))
    return rules.program()
