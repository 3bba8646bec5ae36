"""``vitrail.Tray``: icons of sandboxes in the user's panel.

The sandbox's worker reads what its daemon sends.  Each icon has a
connection of its own to the session bus, because a panel drops an icon only when its bus
name disappears.  Icons are removed when the connection that asked, the sandbox or its
permit ends.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from broker.core.errors import SetupError
from broker.core.limits import tray as limits
from broker.core.stderr_log import isolated, log_stderr
from broker.core.streams.wayland_rules import take_color
from broker.core.token_bucket import TokenBucket
from broker.ipc import transfer as messages
from broker.ipc.desktop.tray_guest import IconAsk, IconClicked, ShowIcon
from broker.viewer.opening.exchanges import OpenExchange
from broker.viewer.tray.panel_bus import Panel
from broker.viewer.tray.sandbox_item import SECOND, SandboxItem

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest


@dataclass(eq=False)
class _Icon:
    """An icon that is shown."""

    item: SandboxItem
    panel: Panel[str]
    scope: trio.CancelScope


class TrayIcons:
    """All icons of one viewer's sandboxes."""

    def __init__(self) -> None:
        self._shown: dict[int, str] = {}
        """The record of each icon that is shown, by our number."""
        self._numbers = itertools.count(2)  # 1 is brokerctl's own
        self._complained = False

    async def serve(self, guest: Guest, exchange: OpenExchange) -> None:
        """Show the icons of one daemon until its connection ends."""
        await guest.order(messages.TrayServe(exchange.stream))
        pace = TokenBucket(limits.ICON_CHANGES_PER_SECOND, limits.ICON_CHANGES_BURST)
        own = _DaemonIcons(self, guest, exchange)
        async with trio.open_nursery() as nursery:
            while True:
                ask = await exchange.icon_asked()
                # guard: a flood of icons waits in its sender
                await trio.sleep(pace.take(trio.current_time()))
                await own.take(ask, nursery)
                await guest.order(messages.TrayMore(exchange.stream))

    def place(self, record: str) -> int | None:
        """Return the number of a new icon; None where there are too many."""
        own = sum(one == record for one in self._shown.values())
        # guard: icons of a sandbox are few
        if own >= limits.ICONS_PER_RECORD:
            return None
        # guard: icons of all sandboxes are few
        if len(self._shown) >= limits.ICONS_TOTAL:
            return None
        number = next(self._numbers)
        self._shown[number] = record
        return number

    async def show(self, number: int, icon: _Icon) -> None:
        """Keep an icon in the panel until its scope is cancelled."""
        try:
            with icon.scope, isolated():
                try:
                    await icon.panel.run()
                except SetupError as error:
                    self._complain(error)
        finally:
            # guard: places of icons come back
            del self._shown[number]

    def _complain(self, error: SetupError) -> None:
        if not self._complained:
            self._complained = True
            log_stderr(f"vitrail: icons of sandboxes are not shown: {error}")


class _DaemonIcons:
    """The icons of one connection, by the daemon's numbers."""

    def __init__(self, icons: TrayIcons, guest: Guest, exchange: OpenExchange) -> None:
        self._icons, self._guest, self._exchange = icons, guest, exchange
        self._own: dict[int, _Icon] = {}
        self._clicks = TokenBucket(
            limits.ICON_CLICKS_PER_SECOND, limits.ICON_CLICKS_BURST
        )

    async def take(self, ask: IconAsk, nursery: trio.Nursery) -> None:
        """Do what the daemon asks."""
        icon = self._own.get(ask.number)
        if not isinstance(ask, ShowIcon):
            if icon is not None:
                del self._own[ask.number]
                icon.scope.cancel()
            return
        if icon is not None:
            await icon.panel.tell(icon.item.update(ask))
            return
        place = self._icons.place(self._guest.lease.record)
        if place is None:
            return
        colour = take_color(self._guest.valid_record().viewer.label.colour)
        item = SandboxItem(self._guest.lease.sandbox, place, colour)
        item.update(ask)

        async def clicked(member: str) -> None:
            await self._click(IconClicked(ask.number, member == SECOND))

        made = _Icon(item, Panel(item, clicked, place), trio.CancelScope())
        self._own[ask.number] = made
        nursery.start_soon(self._icons.show, place, made)

    async def _click(self, click: IconClicked) -> None:
        now = trio.current_time()
        # guard: clicks on icons are paced
        if self._clicks.early(now) <= 0:
            self._clicks.take(now)
            order = messages.TrayClicked(self._exchange.stream, click)
            await self._guest.order(order)
