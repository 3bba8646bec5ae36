"""This machine's libraries in a jail that bubblewrap builds, and nothing else of it."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

_LIBRARIES = ("/usr/local/lib", "/etc/ld.so.cache")


def library_words() -> Iterator[str]:
    """Yield bubblewrap's words for this machine's libraries, to read."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    own = Path("/usr/lib", multiarch)
    # /usr/lib has programs too; where a distribution keeps its libraries apart
    # from these, only they are shown.
    libraries = str(own if multiarch and own.is_dir() else "/usr/lib")
    # The last two are of distributions that have none in /usr.
    for place in ("/usr/lib64", libraries, *_LIBRARIES, "/nix/store", "/gnu/store"):
        yield from ("--ro-bind-try", place, place)
    for name in ("lib", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), str(path))
        else:
            yield from ("--ro-bind-try", str(path), str(path))
