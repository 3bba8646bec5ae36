"""A notification that stays on the screen while a microphone or key is in use.

Sent over D-Bus to the desktop's notification server
(org.freedesktop.Notifications).  Without one nothing is shown, and standard error
says so once: a filter that stopped for that would be worse.

The viewer shows it, and ``brokerctl proxy pulse``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import trio
from jeepney.io.trio import DBusRouter

from broker.core.escape import escape_markup, printable
from broker.core.language.catalogue import mark
from broker.helpers.prompt.translation import tr
from broker.net.desktop_bus import desktop_call
from broker.net.session_bus import Complaint, OpenBus, answer_of

_NAME = "org.freedesktop.Notifications"
_SECONDS = 5.0
_AGAIN_SECONDS = 10.0
"""Until a failed notification is tried again."""
_LEAST_SECONDS = 2.0
"""Shortest display time, however short the source was open: a sandbox that records
in pieces of a tenth of a second must be visible."""
_STAYS = 0
_NORMAL = 1
"""GNOME Shell shows one notification at a time, and a critical one until it is closed,
which would hide that a question waits.  The use is also shown by the tray icon."""


@dataclass(frozen=True)
class Wording:
    """What a notification looks like."""

    icon: str
    title: str
    """With the sandbox's ``{name}``; translated when it is shown."""
    body: str
    """With its ``{source}``, escaped."""
    fact: str
    """What cannot be shown without a server."""
    least_seconds: float = _LEAST_SECONDS


MICROPHONE = Wording(
    "audio-input-microphone",
    mark("{name} records your microphone"),
    mark("from {source}"),
    "that a microphone is in use",
)
KEY_IN_USE = Wording(
    "dialog-password",
    "{name}",
    mark("Touching your security key confirms this request."),
    "which sandbox uses your security key",
    least_seconds=0.0,
)


class Indicator:
    """Shows which sandboxes have the microphone, or the key; ``show`` never waits."""

    def __init__(self, bus: OpenBus, wording: Wording = MICROPHONE) -> None:
        self._bus = bus
        self._wording = wording
        self._wanted: dict[str, str] = {}
        self._least: dict[str, float] = {}
        """When each of them may go at the earliest."""
        self._leaving: set[str] = set()
        self._shown: dict[str, int] = {}
        self._changed = trio.Event()
        self._complaint = Complaint(f"no notification can show {wording.fact}")

    def show(self, sandbox: str, *, active: bool, source: str = "") -> None:
        """Show or remove the notification that a sandbox uses the source."""
        if active:
            self._leaving.discard(sandbox)
            self._wanted[sandbox] = source
            self._least[sandbox] = trio.current_time() + self._wording.least_seconds
        elif sandbox in self._wanted:
            self._leaving.add(sandbox)
        self._changed.set()

    def _leave(self) -> float:
        """Forget the uses whose least time is over; return seconds to the next one."""
        now = trio.current_time()
        for sandbox in [one for one in self._leaving if self._least[one] <= now]:
            self._leaving.discard(sandbox)
            del self._wanted[sandbox], self._least[sandbox]
        return min((self._least[one] - now for one in self._leaving), default=math.inf)

    async def run(self) -> None:
        """Send and close desktop notifications as ``show`` asks, until cancelled."""
        try:
            while True:
                until = math.inf if self._told else _AGAIN_SECONDS
                with trio.move_on_after(min(until, self._leave())):
                    await self._changed.wait()
                self._changed = trio.Event()
                self._leave()
                await self._bring()
        finally:
            self._wanted.clear()
            await self._bring()

    @property
    def _told(self) -> bool:
        """Return whether the notifications shown are those that are wanted."""
        return self._wanted.keys() == self._shown.keys()

    async def _bring(self) -> None:
        """Connect to the bus; show the notifications that are wanted, and no others."""
        if self._told:
            return
        try:
            # A notification that is on its way has no number yet by which it could be closed.
            # guard: a notification that is being shown is not given up
            with trio.fail_after(_SECONDS, shield=True):
                async with self._bus() as bus, bus.router() as router:
                    await self._update_notifications(router)
        except Exception as error:  # noqa: BLE001 -- no bus, no server, one that dies: sound goes on
            self._complaint.tell(error)

    async def _update_notifications(self, router: DBusRouter) -> None:
        """Close the notifications no longer wanted, and send those that are missing."""
        for sandbox in self._shown.keys() - self._wanted.keys():
            number = self._shown[sandbox]
            call = desktop_call(_NAME, "CloseNotification", number)
            await router.send_and_get_reply(call)
            del self._shown[sandbox]
        for sandbox in self._wanted.keys() - self._shown.keys():
            # Servers read simple markup in the text.
            heard = escape_markup(printable(self._wanted[sandbox], 100))
            body = tr(self._wording.body, source=heard)
            title = tr(self._wording.title, name=sandbox)
            hints = {"urgency": ("y", _NORMAL), "resident": ("b", True)}
            no_buttons: list[str] = []
            shown = (
                "Vitrail",
                0,
                self._wording.icon,
                title,
                body,
                no_buttons,
                hints,
                _STAYS,
            )
            call = desktop_call(_NAME, "Notify", *shown)
            answer = await answer_of(router, call, _SECONDS)
            self._shown[sandbox] = answer.body[0]
