"""Copied content, and the terms under which its items may cross."""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.clipboard.types import PNG, TEXT, fits, names_of
from broker.core.limits import clipboard as limits
from broker.ipc import clipboard as ipc
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange import reasons
from broker.viewer.clipboard.exchange.files import URI_LIST

CONTROLS, IMAGES, PLAIN = "controls", "images", "plain"
"""How a record wants content cleaned."""


@dataclass(frozen=True)
class HeldContent:
    """Copied content, until it is pasted.  Times are those given to ``Crossing``."""

    source: str
    items: tuple[w.Item, ...]
    since: float
    until: float
    primary: bool = False
    """Whether it was only selected, not copied."""
    files: tuple[str, ...] = ()
    """Addresses of files, in place of items."""
    window: str = ""
    """The title of the window in which it was copied."""
    desktop: str = ""
    """The types of the user's own selection at that time (``ipc.ChordPressed``)."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Each type of it."""
        if self.files:
            return (URI_LIST,)
        return tuple(item.kind for item in self.items)

    @property
    def size(self) -> int:
        """Bytes, of all types together."""
        return size_of(self.items)


def size_of(items: tuple[w.Item, ...] | list[w.Item]) -> int:
    """Bytes, of all items together."""
    return sum(len(item.data) for item in items)


def pieces_of(items: tuple[w.Item, ...]) -> list[ipc.Piece]:
    """Return the place of each item, and the types under which it is offered."""
    return [ipc.Piece(list(names_of(i.kind)), len(i.data)) for i in items]


def most(max_bytes: int) -> int:
    """The bytes that may cross at once, whatever larger limit is requested."""
    return min(max_bytes, limits.CLIPBOARD_BYTES_MOST)


def ticking(ttl: float) -> float:
    """A time to live, in seconds, whatever longer one is requested."""
    return min(ttl, limits.CLIPBOARD_SECONDS_MOST)


def may_cross(kind: str, terms: w.PasteTerms) -> bool:
    """Return whether a MIME type may be copied under these terms, by its name."""
    if PLAIN in terms.clean and kind != TEXT:
        return False
    # guard: images that cannot be written again
    unclean = IMAGES in terms.clean and kind.startswith("image/") and kind != PNG
    # guard: types of a rule
    return fits(kind, terms.patterns) and not unclean


def crossing(
    items: tuple[w.Item, ...], terms: w.PasteTerms
) -> tuple[tuple[w.Item, ...], str]:
    """Return the items that cross under these terms; and why, if there are none."""
    allowed = tuple(item for item in items if may_cross(item.kind, terms))
    # guard: size of a rule
    if size_of(allowed) > most(terms.max_bytes):
        return (), reasons.LARGE
    images = IMAGES in terms.clean and any(
        item.kind.startswith("image/") and fits(item.kind, terms.patterns)
        for item in items
    )
    return allowed, reasons.IMAGES if images else reasons.NO_TYPE


def to_clean(item: w.Item, clean: frozenset[str]) -> bool:
    """Return whether an item has to be rewritten before it may be offered."""
    if item.kind == PNG:
        # guard: cleaned before it is offered
        return IMAGES in clean
    return CONTROLS in clean and item.kind.startswith("text/")


def in_bytes(items: tuple[w.Item, ...]) -> bytes:
    """All of it, for a hash: lengths first, so that no two contents are one text."""
    parts: list[bytes] = []
    for item in items:
        parts += [f"{item.kind} {len(item.data)} ".encode(), item.data]
    return b"".join(parts)
