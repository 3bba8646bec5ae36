"""What each sandbox uses now: microphone, camera, screen, security key.

This is the one list of it.  The frames of the sandbox and the sign above all windows
(``use_banner``) are made of it, which no notification server draws; a notification is
shown besides, as long as the use lasts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import trio

from broker.core.escape import escape_markup, printable
from broker.core.language.catalogue import mark
from broker.helpers.prompt.translation import tr
from broker.net.session_bus import OpenBus
from broker.viewer.notifications.board import NORMAL, Bubble
from broker.viewer.notifications.desktop_server import (
    DISMISSED,
    DesktopServer,
    ServerTold,
)

_AGAIN_SECONDS = 10.0
"""Seconds until a notification is shown again that the user has not closed."""
_LEAST_SECONDS = 2.0
"""Shortest display time, however short the source was open: a sandbox that records
in pieces of a tenth of a second must be visible."""


@dataclass(frozen=True)
class UseKind:
    """A kind of use, and the texts about it."""

    icon: str
    title: str
    """Title of the notification, with the sandbox's ``{name}``."""
    body: str
    """Text of the notification, with the escaped ``{source}``."""
    mark: str = ""
    """Name of the use in frames and banner; empty if only the notification shows it."""
    least_seconds: float = _LEAST_SECONDS


MICROPHONE = UseKind(
    "audio-input-microphone",
    mark("{name} records your microphone"),
    mark("from {source}"),
    mark("microphone"),
)
CAMERA = UseKind(
    "camera-web",
    mark("{name} uses your camera"),
    mark("from {source}"),
    mark("camera"),
)
SCREEN = UseKind(
    "video-display", mark("{name} sees your screen"), "{source}", mark("screen")
)
SECURITY_KEY = UseKind(
    "dialog-password",
    "{name}",
    mark("Touching your security key confirms this request."),
    mark("security-key"),
    least_seconds=0.0,
)
KINDS = (MICROPHONE, CAMERA, SCREEN, SECURITY_KEY)


@dataclass(eq=False)
class _Use:
    """A use that is shown."""

    number: int
    bubble: Bubble
    least: float
    """When it may go at the earliest."""
    due: float = -math.inf
    """When its notification is sent; infinity: it was, or the user has closed it."""
    ends: bool = False


class UseSigns:
    """Shows what sandboxes use; ``show`` never waits."""

    def __init__(self, bus: OpenBus) -> None:
        self._server = DesktopServer(
            self._handle_signal,
            bus,
            "no notification shows that a microphone, camera, screen or key is in use",
        )
        self._uses: dict[tuple[UseKind, str], _Use] = {}
        self._numbers = itertools.count(1)
        self._woken = trio.Event()
        self.changed: Callable[[], None] = lambda: None
        """Called when a use has begun or ended; never waits."""

    def show(
        self,
        kind: UseKind,
        sandbox: str,
        *,
        active: bool,
        source: str = "",
        title: str = "",
    ) -> None:
        """Note that a sandbox uses something from now on, or no longer.

        ``title`` replaces the notification's title of the kind.
        """
        use = self._uses.get((kind, sandbox))
        if active:
            bubble = _describe(kind, title or tr(kind.title, name=sandbox), source)
            if use is None:
                use = _Use(next(self._numbers), bubble, 0.0)
                self._uses[kind, sandbox] = use
                self.changed()
            if use.bubble != bubble:
                use.bubble, use.due = bubble, -math.inf
            use.ends = False
            use.least = trio.current_time() + kind.least_seconds
        elif use is not None:
            use.ends = True
        self._woken.set()

    def marks(self, sandbox: str) -> tuple[str, ...]:
        """Return what a sandbox uses now, in words for its frames and the banner."""
        return tuple(tr(kind.mark) for kind in KINDS if (kind, sandbox) in self._uses)

    async def run(self) -> None:
        """Send and close desktop notifications as ``show`` requests, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._server.run)
            while True:
                with trio.move_on_at(self._update()):
                    await self._woken.wait()
                self._woken = trio.Event()

    def _update(self) -> float:
        """Forget ended uses, and send due notifications; return when to look again."""
        now = trio.current_time()
        for key, use in list(self._uses.items()):
            if use.ends and use.least <= now:
                del self._uses[key]
                self._server.close(use.number)
                self.changed()
            elif use.due <= now:
                use.due = math.inf
                self._server.show(use.number, use.bubble)
        times = (
            min(use.due, use.least if use.ends else math.inf)
            for use in self._uses.values()
        )
        return min(times, default=math.inf)

    def _handle_signal(self, signal: ServerTold) -> None:
        """Show a notification again that the user has not closed."""
        for use in self._uses.values():
            # guard: a sign that the server has lost comes again
            if use.number == signal.number and signal.reason != DISMISSED:
                use.due = trio.current_time() + _AGAIN_SECONDS
                self._woken.set()


def _describe(kind: UseKind, title: str, source: str) -> Bubble:
    """Return the notification about a use; it stays until it is closed."""
    # Servers read simple markup in the text.
    body = tr(kind.body, source=escape_markup(printable(source, 100)))
    # GNOME Shell shows one notification at a time, and a critical one until it is
    # closed, which would hide that a question waits.
    return Bubble(title, body, NORMAL, (), 0, 0, icon=kind.icon)
