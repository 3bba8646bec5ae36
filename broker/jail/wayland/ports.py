"""Interfaces of the core to the machine and to its sandbox; the shell provides them.

Everything here is synchronous and short.  The core itself opens, reads and
closes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from broker.core.clipboard.key_verdicts import KeyVerdict
from broker.jail.wayland.protocol.wire import Fd

if TYPE_CHECKING:
    from broker.jail.wayland.handlers.foreign_drags import Over
    from broker.jail.wayland.handlers.host_seat import OwnSeat
    from broker.jail.wayland.handlers.selection import DataSource
    from broker.jail.wayland.state import ClientState


class PoolFile(Protocol):
    """The file of one wl_shm_pool, checked, safe to hand to the compositor."""

    def export(self) -> Fd:
        """A descriptor to send; the sender closes it."""

    def grow(self, size: int) -> None:
        """The client says the file has grown.  Raises ValueError if it has not."""

    def keep(
        self, offset: int, length: int, shown: Iterable[tuple[int, int]] = ()
    ) -> int:
        """Account for memory that is about to be shown; give back other memory first.

        ``shown``: offset and length of what surfaces show, which is not given back.
        Return how often memory was given back, after which bytes that were refreshed
        before may be gone.  Raises ValueError at the limit.
        """

    def read(self, offset: int, length: int) -> bytes:
        """Return the client's present bytes.  Raises ValueError if they are not there."""

    def refresh(self, offset: int, length: int) -> None:
        """Make the client's present bytes visible to the compositor.

        Raises ValueError when the bytes are not there.
        """

    def close(self) -> None:
        """No more refresh or grow will come."""


class GpuMemory(Protocol):
    """A dma-buf of the client's, checked."""

    @property
    def size(self) -> int:
        """Size in bytes; it never changes."""

    @property
    def number(self) -> int:
        """The same for each descriptor of the same memory, and for no other's."""

    def fileno(self) -> Fd:
        """The descriptor; it can be read from when nobody draws into the memory."""

    def drawn(self) -> bool:
        """Return whether nobody draws into the memory now."""

    def export(self) -> Fd:
        """A descriptor to send; the sender closes it."""

    def close(self) -> None:
        """Give it up."""


class Paint(Protocol):
    """Our file, whose pixels we choose (strips and backing of frames)."""

    def export(self) -> Fd:
        """A descriptor to send; the sender closes it."""

    def grow(self, size: int) -> None:
        """Make the file at least ``size`` bytes long; new bytes are zero."""

    def write(self, offset: int, data: bytes) -> None:
        """Write data at this offset: pixels, or a copied table of GPU formats."""

    def seal(self) -> None:
        """Seal the file against writes."""

    def close(self) -> None:
        """Give the file up."""


class OperatingSystem(Protocol):
    """The operating system, as far as the core needs it."""

    def admit_pool(self, untrusted_fd: Fd, size: int) -> PoolFile:
        """Check a client's shared-memory file and take it.

        Raises ValueError, with the reason as text, when it is not a regular
        file on tmpfs of at least ``size`` bytes; the descriptor is closed.
        """

    def admit_dmabuf(self, untrusted_fd: Fd) -> GpuMemory:
        """Check that a descriptor is memory of a driver's, and take it.

        Raises ValueError, with the reason as text, when it is anything else or too
        large; the descriptor is closed.
        """

    def admit_pipe(self, untrusted_fd: Fd) -> bool:
        """Return whether a descriptor is a pipe or socket to write a selection into."""

    def stopwatch(self) -> float:
        """Seconds of a clock that measures how long work takes, and tells no time."""

    def paint(self) -> Paint:
        """Create an empty memory file for the pixels that we draw (frames, titles)."""

    def read_keymap(self, fd: Fd, size: int) -> bytes | None:
        """The compositor's keymap; None when it cannot be read.  Closes ``fd``."""

    def read_table(self, fd: Fd, size: int) -> bytes | None:
        """The compositor's table of formats, as ``read_keymap``."""

    def copy_keymap(self, fd: Fd, size: int) -> tuple[Fd, int]:
        """A sealed copy of the compositor's keymap, and its size in bytes.

        0 when it cannot be read.  Closes ``fd``; the sender closes the copy.
        """

    def close(self, fd: Fd) -> None:
        """Close a descriptor that goes nowhere."""


class SeatChords(Protocol):
    """Chords in the keyboard events of one seat (``clipboard.chords.Recogniser``)."""

    def keymap(self, text: bytes | None) -> str:
        """A keymap, or none; answers why there are no chords, empty if there are."""

    def enter(self, keys: Iterable[int]) -> tuple[int, ...]:
        """The focus comes; which of the keys held the client may see."""

    def leave(self) -> None:
        """The focus goes."""

    def modifiers(self, depressed: int, latched: int, locked: int, group: int) -> None:
        """The state of modifiers, and the active layout."""

    def key(self, serial: int, key: int, state: int) -> KeyVerdict:
        """Return the verdict on a key event; the same event comes for each keyboard."""


class InputListener(Protocol):
    """Receives the user's actions, for content that crosses sandboxes."""

    def judge(self) -> SeatChords:
        """One for a seat of a new connection."""

    def focus(self, *, taken: bool) -> None:
        """One of the sandbox's windows has the keyboard, or none has it any more."""

    def pressed(
        self, core: ClientState, seat: OwnSeat, serial: int, *, paste: bool
    ) -> None:
        """A chord was pressed in a window of that connection."""

    def trouble(self, reason: str) -> None:
        """Why there are no chords; empty when there are."""

    @property
    def drags(self) -> DragPort:
        """The receiver of drags that may cross."""


class DragPort(Protocol):
    """Receives drags, for content that crosses sandboxes.

    The client knows nothing of a drag from elsewhere, whatever is reported here.
    """

    def started(self, source: DataSource) -> None:
        """One of the sandbox's applications drags; its mark is ``source.drag``."""

    def performed(self, source: DataSource) -> None:
        """The compositor reports a drop on a client that takes it."""

    def ended(self, source: DataSource) -> None:
        """The drag is over, or its source is gone."""

    def outward(self, source: DataSource) -> Sequence[bytes]:
        """Return the types of a drag that the user's own programs may see."""

    def wanted(self, source: DataSource, mime: bytes, fd: Fd) -> bool:
        """A program of theirs requests such a type; takes ``fd`` if it returns true."""

    def over(self, over: Over) -> None:
        """Another sandbox's drag came over a window of this sandbox."""

    def dropped(self, over: Over) -> None:
        """The drag was dropped there, after ``foreign.accept``."""


class Selection(Protocol):
    """A selection of the sandbox: an application's, or ours."""

    @property
    def mimes(self) -> Sequence[bytes]:
        """The types that it has."""

    def cancel(self) -> None:
        """The content is no longer the selection."""

    def send(self, mime: bytes, fd: Fd) -> bool:
        """Have data written; takes ``fd`` if it answers true."""


class ExportPort(Selection, Protocol):
    """The selection that we gave the compositor as the user's own."""

    def taken(self) -> None:
        """The compositor has announced our own selection."""
