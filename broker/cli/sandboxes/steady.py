"""Ignore keys of ``brokerctl top`` until their target has been shown for a second.

A sandbox decides when its question goes and the next one is in its place, and when it
ends and another row is under the cursor: a key that was meant for the first would act
on the second.  So a key counts only for a question that has been on the screen for
``limits.PROMPT_GUARD_SECONDS``, as in the dialog (``prompt.guard``).

Sans-IO: time is passed in, in seconds of a clock that does not go back.
"""

from __future__ import annotations

from broker.core import limits


class Steady:
    """The target of keys at one place of the screen."""

    def __init__(self, hold: float = limits.PROMPT_GUARD_SECONDS) -> None:
        self._hold = hold
        self._what: object = None
        self._since = 0.0

    def shows(self, what: object, now: float) -> None:
        """Record what the screen shows at this place."""
        if what != self._what:
            self._what, self._since = what, now

    def chosen(self, what: object) -> None:
        """Record that the user selected a row; keys apply to it at once."""
        if what != self._what:
            self._what, self._since = what, float("-inf")

    def takes_key(self, now: float) -> bool:
        """Return whether a key that is pressed now applies to the target."""
        # guard: a key counts for a steady screen
        if now - self._since < self._hold:
            self._since = now
            return False
        return True
