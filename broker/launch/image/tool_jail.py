"""The jail of programs that read an image's files: bubblewrap's words for it.

A root file system from elsewhere is read by programs that others wrote (genext2fs,
e2fsck) and by tarfile.  A hole in one of them must find no home, no network and no
session.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

ROOM = "/work"
"""The one directory that a jailed program can write to."""


def jail_words(room: Path, shown: Mapping[Path, str]) -> list[str]:
    """Return bubblewrap's words: ``room`` to write, ``shown`` to read, no more.

    ``shown`` has the place of each file or directory in the jail.
    """
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    words += ["--cap-drop", "ALL", "--clearenv", "--setenv", "LC_ALL", "C.UTF-8"]
    words += ["--setenv", "PATH", f"{os.defpath}:/usr/sbin:/sbin"]
    for place in ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store"):
        words += ["--ro-bind-try", place, place]
    prefix = sys.base_prefix
    words += ["--ro-bind-try", prefix, prefix]
    for path, place in shown.items():
        words += ["--ro-bind", str(path.resolve()), place]
    return [*words, "--bind", str(room), ROOM, "--chdir", ROOM, "--"]


def python_words() -> list[str]:
    """Return the command of the Python that the jail shows."""
    # Not sys.executable: that is a link of a virtual environment's.
    version = sysconfig.get_python_version()
    return [f"{sys.base_prefix}/bin/python{version}", "-I", "-S", "-B"]
