"""Reading the status of a process, however the process calls itself (proc(5)).

Host, session children, the authority and brokerctl read the status of processes by
this; the confined viewer and workers see none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

_PROC = Path("/proc")


class ProcessFigures(msgspec.Struct, frozen=True, array_like=True):
    """The kernel's figures of a process; zeros if it has ended."""

    pid: int
    memory: int = 0
    """Bytes: shared pages divided by the number of processes that have them."""
    jail: str = ""
    """Its walls: "namespaces seccomp"."""


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


def walls_of(pid: int) -> str:
    """Return what the kernel says of a process's jail: "namespaces seccomp", or "".

    A nested pid namespace represents the namespaces that are made together with it.
    See proc(5); "" for a process that has ended.
    """
    try:
        fields = status_fields(pid)
    except OSError:
        return ""  # it has ended: it is missing in the next status
    nested = len(fields.get("NSpid", ())) > 1
    filtered = fields.get("Seccomp") == ["2"]
    return " ".join(["namespaces"] * nested + ["seccomp"] * filtered)


def descendants(pid: int, depth: int = 3) -> list[int]:
    """Return the descendants of a process, down to this depth."""
    if depth == 0:
        return []
    try:
        text = (_PROC / f"{pid}/task/{pid}/children").read_text()
    except OSError:
        return []  # it has ended
    children = [int(word) for word in text.split()]
    below = (found for one in children for found in descendants(one, depth - 1))
    return [*children, *below]
