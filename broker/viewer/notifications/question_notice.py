"""A question to the user that waits where it is not seen: notification and frames.

On a compositor without layer-shell the dialog is an ordinary window, and a click hides
it.  The notification brings it to the front and answers nothing.  It stays while the
question is hidden, comes again when it was dismissed, and goes with the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from broker.core import limits
from broker.core.escape import escape_markup
from broker.core.language.catalogue import mark
from broker.core.names import LeaseId
from broker.core.prompt_words import PROMPT_ID
from broker.helpers.prompt.phrases import request_of
from broker.helpers.prompt.translation import tr
from broker.ipc.authority import QuestionWaits
from broker.net.session_bus import OpenBus
from broker.viewer.notifications.board import CRITICAL, DEFAULT, Bubble
from broker.viewer.notifications.desktop_server import DesktopServer, ServerTold

TITLE = mark("Vitrail waits for your answer")
"""A sandbox's own begin with its name and a colon."""
_ICON = "security-high"
_SHOW = "show"


class QuestionNotice:
    """The notification about the question that waits, and the mark of its sandbox."""

    def __init__(self, bus: OpenBus, mark: Callable[[LeaseId, bool], None]) -> None:
        """``mark`` has a sandbox's frames say that it asks, or no longer."""
        self._server = DesktopServer(
            self._told, bus, "the notification about a waiting question is not shown"
        )
        self._mark = mark
        self._now = QuestionWaits()
        self._due = math.inf
        self.show_dialog: Callable[[str], None] = lambda _token: None
        """Bring the dialog to the front, by a token of the compositor's or ""."""
        self._changed = trio.Event()

    def waits(self, now: QuestionWaits) -> None:
        """Take which question is on the screen; see ``QuestionWaits``."""
        before, self._now = self._now, now
        if before.lease != now.lease:
            for lease, asks in ((before.lease, False), (now.lease, True)):
                if lease:
                    self._mark(LeaseId(lease), asks)
        # guard: a notification about a question goes with it
        if before.covered and (before.question != now.question or not now.covered):
            self._server.close(before.question)
        self._due = trio.current_time() if now.covered else math.inf
        self._changed.set()

    async def run(self) -> None:
        """Show the notification when it is due, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.run)
            while True:
                with trio.move_on_at(self._due):
                    await self._changed.wait()
                self._changed = trio.Event()
                if self._due <= trio.current_time():
                    self._due = math.inf
                    self._server.show(self._now.question, notice(self._now))

    def _told(self, told: ServerTold) -> None:
        """Handle a press on the notification, or its end."""
        if told.number != self._now.question:
            return
        # guard: a notification shows a question and answers none
        if told.key in {DEFAULT, _SHOW}:
            self.show_dialog(told.token)
        elif not told.key and self._now.covered:
            self._due = trio.current_time() + limits.PROMPT_REMIND_SECONDS
            self._changed.set()


def notice(waits: QuestionWaits) -> Bubble:
    """Return the notification about a question that waits behind other windows."""
    lines = (
        tr(
            "{name} wants {request}.",
            name=waits.sandbox,
            request=request_of(waits.words),
        ),
        tr("The dialog is behind other windows. It is answered there alone."),
    )
    return Bubble(
        tr(TITLE),
        escape_markup("\n".join(lines)),
        # Servers keep it on the screen until it is closed (Desktop Notifications 1.2).
        CRITICAL,
        ((DEFAULT, tr("Show")), (_SHOW, tr("Show the question"))),
        -1,
        0,
        icon=_ICON,
        entry=PROMPT_ID,
    )
