"""A program and the libraries of this machine, for a jail that bubblewrap builds.

Called by the process that starts the jail: the host for a machine's processes, session
children for services, brokerctl for boxes and image builds.  It looks at files and
returns words, and starts nothing.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from broker.core.errors import SetupError

_LIBRARIES = ("/usr/local/lib", "/etc/ld.so.cache")

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Directories of / that most distributions have in /usr."""


def library_words() -> Iterator[str]:
    """Yield bubblewrap's words that bind this machine's libraries read-only."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    own = Path("/usr/lib", multiarch)
    # /usr/lib has programs too; where a distribution keeps its libraries apart
    # from these, only they are shown.
    libraries = str(own if multiarch and own.is_dir() else "/usr/lib")
    # The last two are of distributions that have none in /usr.
    for place in ("/usr/lib64", libraries, *_LIBRARIES, "/nix/store", "/gnu/store"):
        yield from ("--ro-bind-try", place, place)
    yield from merged_words("lib", "lib64")


def merged_words(*names: str) -> Iterator[str]:
    """Yield bubblewrap's words for directories of / that may be links into /usr."""
    for name in names:
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            yield from ("--ro-bind-try", str(path), str(path))


def hide_keys_argv() -> Iterator[str]:
    """Yield bubblewrap's words that hide the names of the user's keys in /proc."""
    for path in ("/proc/keys", "/proc/key-users"):
        if Path(path).exists():
            # guard: a box does not see the names of the user's keys
            yield from ("--ro-bind", "/dev/null", path)


def python_words() -> list[str]:
    """Return the command of the Python that the jail shows."""
    # Not sys.executable: that is a link of a virtual environment's.
    version = sysconfig.get_python_version()
    return [f"{sys.base_prefix}/bin/python{version}", "-I", "-S", "-B"]


def find_program(
    places: Sequence[str], missing: str, *, hint: Callable[[], str]
) -> Path:
    """Return the first that can be executed.  Raises SetupError if there is none."""
    for place in places:
        if os.access(place, os.X_OK):
            return Path(place)
    raise SetupError(missing, hint=hint())
