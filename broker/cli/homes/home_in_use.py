"""The refusal of a home that a program uses: its words, and whether a text is it.

``run`` of a persistent box or container refuses by it; the menu, which reads what ``run``
printed, recognises it.
"""

from __future__ import annotations

IN_USE = (
    "{message}: a box or container of a persistent record runs once at a time, and no "
    "second program in it"
)


def is_in_use(error: str) -> bool:
    """Return whether an error that brokerctl printed says that a home is in use."""
    return error.endswith(IN_USE.format(message=""))
