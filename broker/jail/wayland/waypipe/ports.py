"""Interface of the wire to the machine: memory for pools, pipes.

Synchronous and short, like the filter's own ports.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        """Make the file ``size`` bytes long.  Raises ValueError at a limit."""
        ...

    def account(self) -> None:
        """Charge its memory to the sandbox.  Raises ValueError at the limit."""
        ...

    def close(self) -> None:
        """The wire will write no more; who else holds it keeps it."""
        ...

    @property
    def closed(self) -> bool:
        """Return whether the file is no longer needed on our side."""
        ...


class Arena(Protocol):
    """Memory that a sandbox writes its pixels into, instead of sending them.

    Nothing of it is trusted: bytes may change at any time, and are copied once.
    """

    @property
    def size(self) -> int:
        """Its bytes; it never grows or shrinks."""
        ...

    def read(self, into: Sequence[memoryview], base: int) -> None:
        """Copy bytes from ``base`` on into these, one after the other.

        Raises ValueError where it has fewer.
        """
        ...

    def close(self) -> None:
        """No more is read."""
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
