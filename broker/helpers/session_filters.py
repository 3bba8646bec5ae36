"""System-call filters of our processes that stay in the user's session."""

from __future__ import annotations

import errno
import socket
from functools import cache

from broker.helpers.process.libseccomp import seccomp as libseccomp
from broker.helpers.process.seccomp import NEVER, SeccompRules

_CLONE_THREAD = 0x10000
_SOCKET_KIND = 0xF


@cache
def keeper_filter() -> bytes:
    """The BPF program of a keeper: it stays in the session, so a deny-list.

    It makes UNIX connections and waits; it starts nothing and inspects no other
    process.  It can signal only the process of which it was given a pidfd.
    """
    rules = _in_session(frozenset({"pidfd_send_signal"}))
    rules.kill(["clone", "clone3"])
    return rules.program()


@cache
def authority_filter() -> bytes:
    """The BPF program of the authority: a keeper's, but with threads and pidfds.

    It signals the helpers whose pidfds its starter sent, and asks the kernel who
    calls its control socket.
    """
    rules = _in_session(frozenset({"pidfd_send_signal", "pidfd_open"}))
    # Its flags are behind a pointer; glibc falls back to clone.
    rules.deny("clone3", errno.ENOSYS)
    # guard: the authority makes threads and no processes
    rules.kill_if("clone", rules.clear(0, _CLONE_THREAD))
    return rules.program()


def viewer_filter(pid: int) -> bytes:
    """The BPF program of the viewer, this process: it connects to nothing.

    It listens on sockets that have a path, for its sandboxes' keepers and for the mixer,
    and gets connections from the processes that the starter forks for it.
    """
    rules = _in_session(frozenset({"pidfd_send_signal"}))
    rules.deny("clone3", errno.ENOSYS)
    # guard: the viewer makes threads and no processes
    rules.kill_if("clone", rules.clear(0, _CLONE_THREAD))
    # guard: the viewer connects to no service of the session
    rules.deny("connect", errno.EACCES)
    # A datagram needs no connection, and its address is behind a pointer.
    for call in ("socket", "socketpair"):
        # guard: the viewer sends nothing to a socket that it is not connected to
        rules.deny_if(call, rules.masked(1, _SOCKET_KIND, socket.SOCK_DGRAM))
    # guard: the viewer signals no process but those of which it was given a pidfd
    rules.kill_if("tgkill", libseccomp.Arg(0, libseccomp.NE, pid))
    return rules.program()


def _in_session(needed: frozenset[str]) -> SeccompRules:
    """Rules for a process that executes nothing and has UNIX sockets only."""
    rules = SeccompRules(default=libseccomp.ALLOW)
    rules.kill([name for name in NEVER if name not in needed])
    rules.kill(["execve", "execveat", "fork", "vfork"])
    # guard: a keeper signals its jailed half alone
    rules.kill(["kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"])
    rules.deny_if("socket", libseccomp.Arg(0, libseccomp.NE, socket.AF_UNIX))
    return rules
