"""Keep our memory out of core files.

Brokers call it when they start, and brokerctl.
"""

from __future__ import annotations

import resource

_LIMIT = 1
"""Bytes.  0 would still hand a core to a program that core_pattern names (core(5)), as
systemd-coredump; 1 is what the kernel takes for "nor to that one"."""


def forbid_core_files() -> None:
    """Disable core files of this process and its children.

    Brokers have keys in memory (of the audit log, of the link), brokerctl those
    that it makes, and their children what flows in streams.  PR_SET_DUMPABLE
    (prctl(2)) would keep debuggers out as well, but it gives our entries in /proc
    to root and is undone by execve(2); and programs of the user's that could
    debug us can read the files of the keys.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = _LIMIT if hard == resource.RLIM_INFINITY else min(_LIMIT, hard)
    # guard: a core limit that pipes know
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
