"""What the core asks of the machine and of its sandbox; the shell provides it.

Everything here is synchronous and short.  The core itself opens, reads and
closes nothing.
"""

from __future__ import annotations

from typing import Protocol

from broker.wayland.wire import Fd


class PoolFile(Protocol):
    """The file behind one wl_shm_pool, checked, safe to hand to the compositor."""

    def export(self) -> Fd:
        """A descriptor to send; the sender closes it."""

    def grow(self, size: int) -> None:
        """The client says the file has grown.  Raises ValueError if it has not."""

    def refresh(self, offset: int, length: int) -> None:
        """Make the client's present bytes visible to the compositor.

        Does something only where the file could not be sealed and a copy
        stands in its place.  Raises ValueError when the bytes are not there.
        """

    def close(self) -> None:
        """No more refresh or grow will come."""


class Paint(Protocol):
    """A file of ours whose pixels we choose (strips and backing of frames)."""

    def export(self) -> Fd:
        """A descriptor to send; the sender closes it."""

    def grow(self, size: int) -> None:
        """Make it at least ``size`` bytes long; new bytes are zero."""

    def write(self, offset: int, data: bytes) -> None:
        """Put pixels there."""

    def close(self) -> None:
        """Give the file up."""


class Machine(Protocol):
    """The operating system, as far as the core needs it."""

    def admit_pool(self, untrusted_fd: Fd, size: int) -> PoolFile:
        """Check a client's shared-memory file and take it.

        Raises ValueError, with the reason as text, when it is not a regular
        file on tmpfs of at least ``size`` bytes; the descriptor is closed.
        """

    def admit_pipe(self, untrusted_fd: Fd) -> bool:
        """Whether a descriptor is a pipe or socket to write a selection into."""

    def paint(self) -> Paint:
        """A new empty file of ours."""

    def close(self, fd: Fd) -> None:
        """Close a descriptor that goes nowhere."""
