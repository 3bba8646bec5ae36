"""The operations in progress between sandboxes, as ``crossing`` keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.core.clipboard.types import Pick
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.content import most, size_of


@dataclass(frozen=True)
class Drop:
    """A drag that was dropped, or that a program of the user's asks of."""

    source: str
    target: str
    number: int
    """Its number at the worker that saw the drop, or the request."""
    mark: str
    """Mark of the drag; empty: the user's own."""
    terms: w.CopyTerms
    wanted: str = ""
    """The type that is asked for, as its source spells it."""

    @property
    def seen_by(self) -> str:
        """The sandbox of that worker."""
        return self.source if self.target == w.VIEWER else self.target


@dataclass(frozen=True)
class Paste:
    """A paste that waits for policy's answer."""

    transfer: int
    source: str
    target: str
    until: float
    drop: Drop | None = None
    items: tuple[w.Item, ...] = field(default=(), repr=False)
    """The dropped content."""
    window: str = ""
    """The title of the window in which it was copied."""


@dataclass
class Copy:
    """A selection that is being read: by ``reader``, whose own it usually is."""

    transfer: int
    source: str
    reader: str
    terms: w.CopyTerms
    until: float
    press: int = 0
    outward: bool = False
    reading: Pick | None = None
    left: list[Pick] = field(default_factory=list)
    items: list[w.Item] = field(default_factory=list)
    primary: bool = False
    """Nothing was copied, so the primary selection is read."""
    too_large: bool = False
    """A kind was left out for its size."""
    into: tuple[Paste, w.PasteTerms] | None = None
    """For the user's own selection: the allowed paste that it is read for."""
    waiting: bool = False
    """Allowed, but the dialog that was answered still has the focus."""
    drop: Drop | None = None
    """The drop, if it was not copied but dropped."""
    window: str = ""
    """The title of the window in which it is copied."""
    desktop: str = ""
    """The types of the user's own selection (``ipc.ChordPressed``)."""

    @property
    def host(self) -> bool:
        """Return whether the source is the user's own selection."""
        return self.source == w.VIEWER

    @property
    def between(self) -> bool:
        """Return whether content goes from one sandbox to another, by a copy or a drag."""
        if self.drop is not None:
            return w.VIEWER not in {self.drop.source, self.drop.target}
        return not self.host and not self.primary

    @property
    def target(self) -> str:
        """The member that it is read for, where that is known already."""
        if self.drop is not None:
            return self.drop.target
        return self.reader if self.host else ""

    def expects(self, event: object) -> bool:
        """Return whether such an answer is expected now: types first, and once."""
        if isinstance(event, ipc.ClipboardFailed):
            return True
        if isinstance(event, ipc.ClipboardTypes):
            return self.reading is None and not self.left
        # guard: answers in order
        return self.reading is not None

    @property
    def room(self) -> int:
        """Return the number of bytes that may still be copied."""
        limit = self.terms.max_bytes
        if self.into is not None:
            # guard: a rule limits the size that is read from the user's clipboard
            limit = min(limit, self.into[1].max_bytes)
        return most(limit) - size_of(self.items)


@dataclass
class Cleaning:
    """The rewriting in progress, in the target's worker."""

    paste: Paste
    terms: w.PasteTerms
    left: list[w.Item]
    until: float
    transfer: int = 0
    done: list[w.Item] = field(default_factory=list)


@dataclass(frozen=True)
class Offered:
    """The offer that a target's filter serves."""

    transfer: int
    source: str
    until: float
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class TransferStatus:
    """For ``brokerctl clipboard status``: no content."""

    source: str = ""
    kinds: tuple[str, ...] = ()
    size: int = 0
    seconds: float = 0.0
    """Until it is wiped."""
    offered: tuple[tuple[str, str, float], ...] = ()
    """Source, target and seconds left of each paste that may still be taken."""
    exported: str = ""
    """The sandbox that the user's own selection came from, if it is known."""
