"""How a part of a broker notifies the user, without knowing how it is shown.

The authority, the host and the viewer call it; another process shows the text.
"""

from __future__ import annotations

from typing import Protocol


class Notify(Protocol):
    """Sends a notification soon; never waits, never raises."""

    def __call__(self, title: str, text: str, *, sandbox: str = "") -> None:
        """Send it.

        ``sandbox``: it is about what this one did of its own accord, and counts
        for its budget.  Empty: the user's own message, which always goes.
        """
