"""What a hook's child gives up before it opens a file of a user's."""

from __future__ import annotations

import os
import pwd


def become(uid: int) -> None:
    """Drop root's rights for a user's, for good.  Raises KeyError."""
    if os.geteuid() == uid:
        return
    # guard: root reads a user's records with the user's rights
    os.setgroups([])
    os.setgid(pwd.getpwuid(uid).pw_gid)
    os.setuid(uid)


def give_up_files(output: int, log_end: int = -1) -> None:
    """Keep nothing open but pipes, whose other ends wait with a deadline.

    ``log_end`` becomes standard error; -1: none.

    A child that cannot be killed, as in a user's file system, keeps what it has: the
    hook's own output would not end for who reads it, Podman or libvirtd.
    """
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(null if log_end < 0 else log_end, 2)
    os.closerange(3, output)
    os.closerange(output + 1, os.sysconf("SC_OPEN_MAX"))
