"""The clipboard's methods of the control socket: its state has no content."""

from __future__ import annotations

from broker.core.escape import printable
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.viewer.clipboard.service import ClipboardService


class ClipboardControl:
    """The clipboard between sandboxes, and its chords."""

    def __init__(self, clipboard: ClipboardService) -> None:
        self._clipboard = clipboard

    @serves(methods.CLIPBOARD)
    async def clipboard(
        self, exchange: Exchange[api.ClipboardStatus], request: api.Nothing
    ) -> api.ClipboardStatus:
        """The held and the offered content, and the chords."""
        del exchange, request
        return clipboard_status(self._clipboard)

    @serves(methods.CLIPBOARD_CLEAR)
    async def clear(
        self, exchange: Exchange[api.Nothing], request: api.Nothing
    ) -> api.Nothing:
        """Wipe the held content, and withdraw what was pasted."""
        del exchange
        await self._clipboard.clear()
        return request

    @serves(methods.CLIPBOARD_CHORDS)
    async def choose_chords(
        self, exchange: Exchange[api.ClipboardStatus], request: api.Nothing
    ) -> api.ClipboardStatus:
        """Read the user's chord settings again; return the clipboard's status."""
        del exchange, request
        await self._clipboard.choose_again()
        return clipboard_status(self._clipboard)


def clipboard_status(clipboard: ClipboardService) -> api.ClipboardStatus:
    """Return the clipboard's state (held, offered, exported content) and chords."""
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
