"""Warn if a label's colour looks like another record's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policy.records.model import Record
from policy.records.patterns import PALETTE
from policy.tools.colours import distance, seen

NEAR = 36.0
"""CIE76 distance below which a user who sees one frame alone may take it for another.

``colours.APART`` is for colours that cannot be told apart; between the two, as for
#d55e00 and #e69f00, a user can tell them apart side by side only."""

_USUAL = "usual sight"


def alike(record: Record, others: Iterable[Record]) -> Iterator[str]:
    """Yield a warning for each other record whose colour looks like this one's."""
    mine = record.viewer.label.colour
    others = [other for other in others if other.name != record.name]
    for other in others:
        theirs = other.viewer.label.colour
        if mine == theirs:
            yield f"'{other.name}' has the same colour, {mine}; {_free(others)}"
        elif distance(seen(mine, _USUAL), seen(theirs, _USUAL)) < NEAR:
            yield f"{mine} looks like {theirs} of '{other.name}'; {_free(others)}"


def _free(others: Iterable[Record]) -> str:
    """Return colours that look unlike all used ones, as text."""
    used = {one.viewer.label.colour for one in others}
    free = [
        name
        for name, colour in PALETTE.items()
        if all(distance(seen(colour, _USUAL), seen(u, _USUAL)) >= NEAR for u in used)
    ]
    return f"use --label {free[0]} instead" if free else "use --label to choose another"
