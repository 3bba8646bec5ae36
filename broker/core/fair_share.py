"""Places that several sandboxes share."""

from __future__ import annotations


def may_take(own: int, taken: int, most: int) -> bool:
    """Return whether one that has ``own`` of ``most`` places may take another.

    It may while more are free than it has: alone it takes half, and whoever has none
    finds one (dynamic thresholds, Choudhury and Hahne 1998).
    """
    # guard: one caller leaves places to others
    return own < most - taken
