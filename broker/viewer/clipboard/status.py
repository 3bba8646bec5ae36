"""The clipboard as ``brokerctl clipboard status`` shows it: no content."""

from __future__ import annotations

from broker.control import api
from broker.core.escape import printable
from broker.viewer.clipboard.service import ClipboardService


def clipboard_status(clipboard: ClipboardService) -> api.ClipboardStatus:
    """What is held, on offer, and the chords."""
    now, choice = clipboard.status(), clipboard.choice
    return api.ClipboardStatus(
        source=now.source,
        types=[printable(kind, 200) for kind in now.kinds],
        size=now.size,
        seconds=max(0.0, now.seconds),
        offered=[
            api.ClipboardOffer(source=source, target=target, seconds=max(0.0, left))
            for source, target, left in now.offered
        ],
        exported=now.exported,
        focused=clipboard.focused,
        copy_chord=choice.copy,
        paste_chord=choice.paste,
        preset=choice.preset,
        problem=choice.problem,
        troubles=[
            api.ChordTrouble(sandbox=sandbox, reason=reason)
            for sandbox, reason in clipboard.troubles()
        ],
    )
