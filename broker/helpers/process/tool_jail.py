"""The jail of tools that read archives from elsewhere: bubblewrap's words for it.

Only brokerctl runs this, with the user's rights: it prepares words, and starts nothing.

An image's root file system, a backup and the header of an encrypted home are read by
programs that others wrote (genext2fs, e2fsck, tar, gzip, qemu-io) and by tarfile.  A
hole in one of them must find no home, no network and no session.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_NOTHING: Mapping[Path, str] = MappingProxyType({})
ROOM = "/work"
"""The one directory that a jailed program can write to."""


def jail_words(
    room: Path | None, shown: Mapping[Path, str] = _NOTHING, *, proc: bool = False
) -> list[str]:
    """Return bubblewrap's words: ``room`` to write, ``shown`` to read, no more.

    ``shown`` has the place of each file or directory in the jail.  Descriptors of a
    program that are inherited go along; with ``proc`` it can name them (proc(5)).
    """
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    words += ["--cap-drop", "ALL", "--clearenv", "--setenv", "LC_ALL", "C.UTF-8"]
    words += ["--setenv", "PATH", f"{os.defpath}:/usr/sbin:/sbin"]
    for place in ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store"):
        words += ["--ro-bind-try", place, place]
    words += ["--proc", "/proc"] if proc else []
    prefix = sys.base_prefix
    words += ["--ro-bind-try", prefix, prefix]
    for path, place in shown.items():
        words += ["--ro-bind", str(path.resolve()), place]
    if room is None:
        return [*words, "--chdir", "/", "--"]
    return [*words, "--bind", str(room), ROOM, "--chdir", ROOM, "--"]
