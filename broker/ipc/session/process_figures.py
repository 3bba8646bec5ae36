"""What is known of a process of the broker: a row of ``brokerctl status`` shows it."""

from __future__ import annotations

import msgspec


class ProcessFigures(msgspec.Struct, frozen=True, array_like=True):
    """What the kernel says about a process; of one that has ended, nothing."""

    pid: int
    memory: int = 0
    """Bytes: shared pages divided by the number of processes that have them."""
    jail: str = ""
    """Its walls: "namespaces seccomp"."""
