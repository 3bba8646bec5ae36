"""System-call filters of our processes that stay in the user's session."""

from __future__ import annotations

import errno
import socket
from functools import cache

from broker.helpers.filters.libseccomp import seccomp as libseccomp
from broker.helpers.filters.seccomp import NEVER, SeccompRules

CLONE_THREAD = 0x10000


@cache
def keeper_filter() -> bytes:
    """The BPF program of a keeper: it stays in the session, so a deny-list.

    It makes UNIX connections and waits; it starts nothing and inspects no other
    process.  It can signal only the process of which it was given a pidfd.
    """
    rules = in_session(frozenset({"pidfd_send_signal"}))
    rules.kill(["clone", "clone3"])
    return rules.program()


@cache
def authority_filter() -> bytes:
    """The BPF program of the authority: a keeper's, but with threads and pidfds.

    It signals the helpers whose pidfds its starter sent, and asks the kernel who
    calls its control socket.
    """
    rules = in_session(frozenset({"pidfd_send_signal", "pidfd_open"}))
    # Its flags are behind a pointer; glibc falls back to clone.
    rules.deny("clone3", errno.ENOSYS)
    # guard: the authority makes threads and no processes
    rules.kill_if("clone", rules.clear(0, CLONE_THREAD))
    return rules.program()


def in_session(needed: frozenset[str]) -> SeccompRules:
    """Rules for a process that executes nothing and has UNIX sockets only."""
    rules = SeccompRules(default=libseccomp.ALLOW)
    rules.kill([name for name in NEVER if name not in needed])
    rules.kill(["execve", "execveat", "fork", "vfork"])
    # guard: a keeper signals its jailed half alone
    rules.kill(["kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"])
    rules.deny_if("socket", libseccomp.Arg(0, libseccomp.NE, socket.AF_UNIX))
    return rules
