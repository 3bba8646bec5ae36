"""Reading the status of a process, however the process calls itself (proc(5))."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_PROC = Path("/proc")


def status_fields(pid: int) -> Mapping[str, list[str]]:
    """Return the words of each field of ``/proc/PID/status``.

    A process gives itself any name of 15 bytes (prctl(2), PR_SET_NAME): the name may
    look like another field, and need not be text.  The kernel escapes only a newline
    in it, so a field begins after a newline and nowhere else.  Raises OSError where
    the process has ended.
    """
    lines = (_PROC / f"{pid}/status").read_bytes().split(b"\n")
    # guard: a process's name need not be text
    fields = (line.decode("ascii", "replace").partition(":") for line in lines)
    return {name: value.split() for name, _, value in fields}
