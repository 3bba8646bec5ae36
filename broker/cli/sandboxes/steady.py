"""Whether a key of ``top`` means what the screen shows.

A sandbox decides when its question goes and the next one is in its place, and when it
ends and another row is under the cursor: a key that was meant for the first would act
on the second.  So a key counts only for a question that has been on the screen for
``limits.PROMPT_GUARD_SECONDS``, as in the dialog (``prompt.guard``).

Sans-IO: time is passed in, in seconds of a clock that does not go back.
"""

from __future__ import annotations

from broker.core import limits


class Steady:
    """One place of the screen that keys act on."""

    def __init__(self, hold: float = limits.PROMPT_GUARD_SECONDS) -> None:
        self._hold = hold
        self._what: object = None
        self._since = 0.0

    def shows(self, what: object, now: float) -> None:
        """The screen shows this there."""
        if what != self._what:
            self._what, self._since = what, now

    def chosen(self, what: object) -> None:
        """The user has moved there, so a key at once is for it."""
        if what != self._what:
            self._what, self._since = what, float("-inf")

    def takes_key(self, now: float) -> bool:
        """Return whether a key that is pressed now is meant for what is shown."""
        # guard: a key counts for a steady screen
        if now - self._since < self._hold:
            self._since = now
            return False
        return True
