"""A user's record, as a hook reads it: whether a lease is required.

Both hooks read it, a hook of root's in a child with the user's rights.
"""

from __future__ import annotations

import os
import re
import resource
import stat
from pathlib import Path
from typing import NamedTuple, Optional

FILE_BYTES = 1 << 16
LINE_CHARS = 4096
"""The broker refuses a longer record or line; a parser of TOML takes memory by the square
of a dotted key's length."""
CHILD_BYTES = 1 << 30
"""Address space of the process that reads records."""
PARENTS = 16
"""Records that a record may inherit from, one after the other."""


class RecordWords(NamedTuple):
    """What a record says that a hook needs; ``required`` is None if it does not say."""

    required: Optional[bool] = None
    inherits: str = ""
    domain: str = ""
    """Of libvirt."""


def read_record(path: Path) -> RecordWords:
    """Read from a record's file what a hook needs.

    Raises OSError, for a file that is not a regular one, too.
    """
    return parse_record(_read_regular(path))


def limit_memory() -> None:
    """Limit the address space of this process, a child that reads records."""
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_BYTES, CHILD_BYTES))


def _read_regular(path: Path) -> str:
    """Read a regular file that does not block its reader.  Raises OSError."""
    with open(path, "rb", opener=_without_waiting) as file:
        # guard: a hook reads only a regular file as a record
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("the file is not a regular file")
        return file.read(FILE_BYTES + 1).decode("utf-8", "replace")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, but none of FUSE.  Raises OSError."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        # guard: a record is not opened in a file system that a program serves
        if _on_fuse(place):
            raise OSError("the file is in a FUSE file system")
        again = f"/proc/self/fd/{place}"
        return os.open(again, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(place)


def _on_fuse(fd: int) -> bool:
    """Return whether a file is on FUSE, whose program may never answer."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        mount = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        found = (line.split() for line in file)
        fields = next((one for one in found if one[0] == mount), ["-", "fuse"])
    return fields[fields.index("-") + 1].startswith("fuse")


def parse_record(text: str) -> RecordWords:
    """Return what a record's text says that a hook needs."""
    try:
        import tomllib

        _require_size(text)
        values = tomllib.loads(text)
        domain = values.get("peer", {}).get("libvirt", "")
        required = values.get("launch", {}).get("required")
        inherits = values.get("inherits", "")
    # guard: no record keeps the others from being read
    except (ImportError, ValueError, AttributeError, RecursionError, MemoryError):
        # Python before 3.11, or a record with a mistake (or nested too deeply), which
        # the broker denies: the words alone decide then.
        domain = _word(text, r"libvirt\s*=\s*[\"']([^\"'\n]+)[\"']")
        inherits = _word(text, r"inherits\s*=\s*[\"']([a-z0-9-]+)[\"']")
        written = _word(text, r"required\s*=\s*(true|false)\b")
        required = written == "true" if written else None
    own = required if isinstance(required, bool) else None
    return RecordWords(own, str(inherits), str(domain))


def _require_size(text: str) -> None:
    """Raise ValueError for a record that the broker refuses for its size."""
    longest = max(map(len, text.split("\n")))
    # guard: a hook parses no record that the broker refuses for its size
    if len(text) > FILE_BYTES or longest > LINE_CHARS:
        raise ValueError("the record is too long")


def _word(text: str, pattern: str) -> str:
    """Return the value of a key that begins a line; empty without one."""
    # Not \s, which has line ends, each of which would be a beginning.
    found = re.search(r"(?m)^[ \t]*" + pattern.replace(r"\s", r"[ \t]"), text)
    return found.group(1) if found else ""
