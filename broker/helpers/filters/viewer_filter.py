"""The system-call filter of the viewer."""

from __future__ import annotations

import errno
import socket

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.session_filters import CLONE_THREAD, in_session

_SOCKET_KIND = 0xF


def viewer_filter(pid: int) -> bytes:
    """The BPF program of the viewer, this process: it connects to nothing.

    It listens on sockets that have a path, for its sandboxes' keepers and for the mixer,
    and gets connections from the processes that the starter forks for it.
    """
    rules = in_session(frozenset({"pidfd_send_signal"}))
    rules.deny("clone3", errno.ENOSYS)
    # guard: the viewer makes threads and no processes
    rules.kill_if("clone", rules.clear(0, CLONE_THREAD))
    # guard: the viewer connects to no service of the session
    rules.deny("connect", errno.EACCES)
    # A datagram needs no connection, and a filter cannot read its address.
    for call in ("socket", "socketpair"):
        # guard: the viewer sends nothing to a socket that it is not connected to
        rules.deny_if(call, rules.masked(1, _SOCKET_KIND, socket.SOCK_DGRAM))
    # guard: the viewer signals no process but those of which it was given a pidfd
    rules.kill_if("tgkill", libseccomp.Arg(0, libseccomp.NE, pid))
    return rules.program()
