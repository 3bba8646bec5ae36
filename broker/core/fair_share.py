"""Places that several sandboxes share.

The viewer and the authority divide their tables and queues among sandboxes by this, the
process of a switch its members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


def may_take(own: int, taken: int, most: int) -> bool:
    """Return whether the owner of ``own`` of ``most`` places may take another.

    It may while more are free than it has: alone it takes half, and whoever has none
    finds one (dynamic thresholds, Choudhury and Hahne 1998).
    """
    # guard: one caller leaves places to others
    return own < most - taken


@contextmanager
def counted(taken: Counter[str], holder: str) -> Iterator[None]:
    """Count one more place of a holder while the block runs."""
    taken[holder] += 1
    try:
        yield
    finally:
        taken[holder] -= 1
        if not taken[holder]:
            del taken[holder]
