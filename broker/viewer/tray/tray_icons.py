"""``vitrail.Tray``: icons of sandboxes in the user's panel.

The sandbox's worker reads what its daemon sends.  Each icon has a
connection of its own to the session bus, because a panel drops an icon only when its bus
name disappears.  Icons are removed when the connection that asked, the sandbox or its
permit ends.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.authority.permit import Request
from broker.core.errors import RefusedError, SetupError
from broker.core.fair_share import may_take
from broker.core.limits import tray as limits
from broker.core.stderr_log import isolated
from broker.core.streams.wayland_rules import take_color
from broker.core.token_bucket import TokenBucket
from broker.ipc import transfer as messages
from broker.ipc.guest.daemons import FromDaemon, HideIcon, IconClicked, ShowIcon
from broker.net.caller_paces import CallPaces
from broker.net.session_bus import Complaint
from broker.viewer.calls.places import take_asks
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.tray.panel_bus import OpenItemBus, Panel
from broker.viewer.tray.sandbox_item import SECOND, SandboxItem

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest


@dataclass(eq=False)
class _Icon:
    """An icon that is shown."""

    guest: Guest
    item: SandboxItem
    panel: Panel[str]
    scope: trio.CancelScope


class TrayIcons:
    """All icons of one viewer's sandboxes."""

    def __init__(self, bus: OpenItemBus) -> None:
        self.bus = bus
        self.shown: dict[int, _Icon] = {}
        """By our number."""
        self.numbers = itertools.count(1)
        self._paces = CallPaces(
            limits.ICON_CHANGES_PER_SECOND, limits.ICON_CHANGES_BURST
        )
        self.freed = trio.Event()
        """Set, and replaced, when an icon has left its place."""
        self._complaint = Complaint("icons of sandboxes are not shown")

    async def serve(self, exchange: GuestConnection, _request: Request) -> None:
        """Show the icons of one daemon until its connection ends."""
        async with trio.open_nursery() as nursery:
            own = _DaemonIcons(self, exchange, nursery)
            nursery.start_soon(own.show_waiting)
            await take_asks(exchange, self._paces, own.take)

    async def follow(self) -> None:
        """Give the icons the colours that their records have now."""
        told = []
        # All of them first: a colour may have been another sandbox's.
        for icon in self.shown.values():
            with suppress(RefusedError):  # its record went away, and it soon goes, too
                # guard: icons follow the colour of their record
                told.append((icon.panel, icon.item.recolour(_colour(icon.guest))))
        for panel, signals in told:
            await panel.tell(signals)

    def has_place(self, record: str) -> bool:
        """Return whether a record may show another icon."""
        own = sum(one.guest.lease.record == record for one in self.shown.values())
        # guard: icons of a sandbox are few
        if own >= limits.ICONS_PER_RECORD:
            return False
        # guard: icons leave places to other sandboxes
        return may_take(own, len(self.shown), limits.ICONS_TOTAL)

    async def show(self, number: int, icon: _Icon) -> None:
        """Keep an icon in the panel until its scope is cancelled, or the panel ends."""
        try:
            with icon.scope, isolated():
                try:
                    await icon.panel.run()
                except SetupError as error:
                    self._complaint.tell(error)
        finally:
            # guard: places of icons come back
            del self.shown[number]
            # guard: icons that wait learn of a free place
            self.freed.set()
            self.freed = trio.Event()


class _DaemonIcons:
    """The icons of one connection, by the daemon's numbers."""

    def __init__(
        self, icons: TrayIcons, exchange: GuestConnection, nursery: trio.Nursery
    ) -> None:
        self._icons, self._guest, self._exchange = icons, exchange.guest, exchange
        self._nursery = nursery
        self._own: dict[int, _Icon] = {}
        self._waiting: dict[int, ShowIcon] = {}
        self._clicks = TokenBucket(
            limits.ICON_CLICKS_PER_SECOND, limits.ICON_CLICKS_BURST
        )

    async def take(self, ask: FromDaemon) -> None:
        """Handle a daemon's request to show or hide an icon.  Raises ShareableError."""
        icon = self._own.get(ask.number)
        if isinstance(ask, HideIcon):
            self._waiting.pop(ask.number, None)
            if icon is not None:
                del self._own[ask.number]
                icon.scope.cancel()
        elif not isinstance(ask, ShowIcon):
            raise ShareableError("received a notification in a call for icons")
        elif icon is not None:
            await icon.panel.tell(icon.item.update(ask))
        else:
            self._waiting[ask.number] = ask  # keeps its turn, if it waits already
            self._take_places()
            # guard: icons that wait are few
            if len(self._waiting) > limits.ICONS_WAITING:
                self._waiting.popitem()

    async def show_waiting(self) -> None:
        """Show icons that wait, when places come free."""
        while True:
            await self._icons.freed.wait()
            with suppress(RefusedError):  # the record went away
                self._take_places()

    def _take_places(self) -> None:
        """Show icons that wait, oldest first.  Raises RefusedError without a record."""
        while self._waiting and self._icons.has_place(self._guest.lease.record):
            first = next(iter(self._waiting))
            self._show(self._waiting[first])
            del self._waiting[first]

    def _show(self, ask: ShowIcon) -> None:
        """Show an icon that has a place.  Raises RefusedError without a record.

        Starts a task that puts it on the session bus; clicks go to the sandbox's
        worker.
        """
        colour, place = _colour(self._guest), next(self._icons.numbers)
        item = SandboxItem(self._guest.lease.sandbox, place, colour)
        item.update(ask)

        async def clicked(member: str) -> None:
            await self._click(IconClicked(ask.number, member == SECOND))

        panel = Panel(item.call, clicked, self._icons.bus)
        made = _Icon(self._guest, item, panel, trio.CancelScope())
        self._own[ask.number] = self._icons.shown[place] = made
        self._nursery.start_soon(self._keep, ask.number, place, made)

    async def _keep(self, number: int, place: int, icon: _Icon) -> None:
        """Show an icon until it is hidden or fails; then forget it."""
        try:
            await self._icons.show(place, icon)
        finally:
            # guard: an icon that ended by itself is forgotten
            if self._own.get(number) is icon:
                del self._own[number]

    async def _click(self, click: IconClicked) -> None:
        """Send a click on an icon to the sandbox's program; limited in rate."""
        now = trio.current_time()
        # guard: clicks on icons are paced
        if self._clicks.early(now) <= 0:
            self._clicks.take(now)
            order = messages.StreamTell(self._exchange.stream, click)
            await self._guest.order(order)


def _colour(guest: Guest) -> int:
    """Return a sandbox's colour as it is now.  Raises RefusedError without a record."""
    return take_color(guest.valid_record().viewer.label.colour)
