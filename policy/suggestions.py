"""The known word that a mistaken one was probably meant to be.

Whichever process reports an unknown word calls this.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: object, known: Iterable[str]) -> str:
    """Return the known word that this one was probably meant to be, or nothing."""
    if not isinstance(word, str):
        return ""
    near = difflib.get_close_matches(word[:80].lower(), list(known), n=1, cutoff=0.6)
    return near[0] if near else ""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return the hint that names the nearest known word, or nothing."""
    near = nearest(word, known)
    return f"did you mean '{near}'?" if near else ""
