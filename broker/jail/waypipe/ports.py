"""Interface of the wire to the machine: memory for pools, pipes.

Synchronous and short, like the filter's own ports.
"""

from __future__ import annotations

from typing import Protocol


class WaypipeFile(Protocol):
    """Memory that a pool of the application is mirrored in.

    ``view`` is writable and has ``size`` bytes, zero where nothing was put.
    """

    @property
    def view(self) -> memoryview:
        """The bytes.  Not to be kept: ``grow`` makes a new one."""
        ...

    def grow(self, size: int) -> None:
        """Make it ``size`` bytes long.  Raises ValueError at a limit."""
        ...

    def account(self) -> None:
        """Look at how much memory is behind it.  Raises ValueError at the limit."""
        ...

    def close(self) -> None:
        """The wire will write no more; who else holds it keeps it."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the file is no longer needed on our side."""
        ...


class Memory(Protocol):
    """The operating system, as far as the wire needs it."""

    def file(self, size: int) -> WaypipeFile:
        """A new file of zeros.  Raises ValueError at a limit."""
        ...

    def pipe(self) -> tuple[int, int]:
        """A new pipe: (our reading end, the writing end).  Raises ValueError."""
        ...

    def discard(self, fd: object) -> None:
        """Close a descriptor or file that goes nowhere."""
        ...
