"""A broker that shows windows on another compositor than the one of the user's terminal."""

from __future__ import annotations

import os

from broker.core.escape import printable
from broker.helpers.compositor_socket import named_display


def on_another_display(untrusted_display: str) -> str:
    """Return a sentence for a user whose broker shows its windows elsewhere, or nothing.

    ``untrusted_display`` is the broker's (``Version.display``).
    """
    here = named_display()
    if not (here and untrusted_display) or here == untrusted_display:
        return ""
    if os.path.realpath(here) == os.path.realpath(untrusted_display):
        return ""
    there, here = printable(untrusted_display, 200), printable(here, 200)
    return (
        f"windows and dialogs appear on the compositor at {there}, for which the broker "
        f"was started, and not at {here}: to move them here, run 'brokerctl restart'"
    )
