"""Warn if a label's colour looks like another record's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from policy.records.model import Record
from policy.records.patterns import PALETTE
from policy.tools.colours import distance, seen

NEAR = 36.0
"""CIE76 distance below which a user who sees one frame alone may take it for another.

``colours.APART`` is for colours that cannot be told apart; between the two, as for
#d55e00 and #e69f00, a user can tell them apart side by side only."""

_USUAL = "usual sight"


def unlike(record: Record, others: Sequence[Record]) -> str | None:
    """Return the name of a colour that no other record has; None: its own is free.

    A colour that looks unlike theirs, if there is one.  None also where all are taken.
    """
    used = {other.viewer.label.colour for other in others}
    if next(alike(record, others), None) is None:
        return None
    free = _unlike(used)
    if not free and record.viewer.label.colour in used:
        free = [name for name, colour in PALETTE.items() if colour not in used]
    return free[0] if free else None


def alike(record: Record, others: Iterable[Record]) -> Iterator[str]:
    """Yield a warning for each other record whose colour looks like this one's."""
    mine = record.viewer.label.colour
    others = [other for other in others if other.name != record.name]
    for other in others:
        theirs = other.viewer.label.colour
        if mine == theirs:
            yield f"'{other.name}' has the same colour, {mine}; {_free(record, others)}"
        elif distance(seen(mine, _USUAL), seen(theirs, _USUAL)) < NEAR:
            yield f"{mine} looks like {theirs} of '{other.name}'; {_free(record, others)}"


def _free(record: Record, others: Iterable[Record]) -> str:
    """Return how to get a colour that looks unlike all used ones, as text."""
    free = _unlike({one.viewer.label.colour for one in others})
    word = free[0] if free else "COLOUR"
    return f"to change it, run 'brokerctl set {record.name} colour {word}'"


def _unlike(used: Collection[str]) -> list[str]:
    """Return the names of colours that look unlike all used ones."""
    return [
        name
        for name, colour in PALETTE.items()
        if all(distance(seen(colour, _USUAL), seen(u, _USUAL)) >= NEAR for u in used)
    ]
