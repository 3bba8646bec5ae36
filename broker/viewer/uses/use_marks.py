"""What frames, and the banner above all windows, say of sandboxes.

The frames of a sandbox say that the user is asked about it, and what it uses; the banner
says what all sandboxes use.  A session child draws the banner, if the compositor can
show one, so that no notification server and no window takes it from the screen.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from broker.core.errors import UpstreamError, VitrailError
from broker.core.names import LeaseId
from broker.core.stderr_log import run_isolated
from broker.ipc.session.media_orders import SHOW_BANNER, BannerRow, ShowBanner
from broker.net.session_bus import Complaint, OpenBus
from broker.viewer.orders.session_orders import UserSession
from broker.viewer.uses.use_signs import UseSigns

if TYPE_CHECKING:
    from broker.viewer.sandboxes.guest import Guest

_START_SECONDS = 10.0
_AGAIN_SECONDS = 1.0
"""Seconds between two banners at least: each is a process."""
_ROWS = 8
"""Sandboxes that a banner names; a screen has room for them."""


class UseMarks:
    """Has frames and banner follow what sandboxes ask and use."""

    def __init__(
        self,
        guests: Callable[[], Iterable[Guest]],
        bus: OpenBus,
        session: UserSession,
    ) -> None:
        self._guests, self._session = guests, session
        self.signs = UseSigns(bus)
        self.signs.changed = self.mark_uses
        self._changed = trio.Event()
        self._shown: tuple[BannerRow, ...] | None = ()
        """Rows of the banner that is shown; None if it has ended by itself."""
        self._nursery: trio.Nursery | None = None
        self._complaint = Complaint("no banner shows what sandboxes use")

    def mark_asking(self, lease: LeaseId, asks: bool) -> None:  # noqa: FBT001
        """Have the frames of a sandbox say that it waits for an answer, or no longer."""
        for guest in self._guests():
            if guest.lease.id == lease:
                # guard: what was reported last of a question is what frames say
                self._mark(guest, asks=asks)

    def mark_uses(self) -> None:
        """Have frames and banner say what sandboxes use now."""
        for guest in self._guests():
            self._mark(guest, uses=self.signs.marks(guest.lease.sandbox))
        self._changed.set()

    def _mark(
        self,
        guest: Guest,
        *,
        asks: bool | None = None,
        uses: tuple[str, ...] | None = None,
    ) -> None:
        changed = guest.frames.mark(asks=asks, uses=uses)
        if changed and self._nursery is not None:
            self._nursery.start_soon(run_isolated, guest.follow_frames)

    def rows(self) -> tuple[BannerRow, ...]:
        """Return the rows of the banner, the oldest sandbox first."""
        rows = (
            BannerRow(guest.frames.colour.removeprefix("#"), name, marks)
            for guest in self._guests()
            if (marks := self.signs.marks(name := guest.lease.sandbox))
        )
        return tuple(itertools.islice(rows, _ROWS))

    async def run(self) -> None:
        """Keep frames and banner as they were marked last, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.signs.run)
            former = trio.CancelScope()
            while True:
                await self._changed.wait()
                self._changed = trio.Event()
                rows = self.rows()
                if rows == self._shown:
                    continue
                self._shown, previous = rows, former
                if rows:
                    former, drawn = trio.CancelScope(), trio.Event()
                    nursery.start_soon(self._show, rows, former, drawn)
                    # guard: the next banner is drawn before the former one goes
                    await drawn.wait()
                previous.cancel()
                await trio.sleep(_AGAIN_SECONDS)

    async def _show(
        self,
        rows: tuple[BannerRow, ...],
        scope: trio.CancelScope,
        drawn: trio.Event,
    ) -> None:
        """Have a session child show a banner, until cancelled."""
        with scope:
            try:
                async with self._session.carrying_out(
                    SHOW_BANNER, ShowBanner(rows)
                ) as banner:
                    reply = await _first_byte(banner.fds[0])
                    drawn.set()
                    if reply == b"0":
                        await trio.sleep_forever()  # this compositor can show none
                    await banner.process.wait()
            except (VitrailError, OSError) as error:
                self._complaint.tell(error)
                drawn.set()
                await trio.sleep(_START_SECONDS)
            # guard: a banner that ends by itself is shown again
            self._shown = None
            self._changed.set()


async def _first_byte(fd: int) -> bytes:
    """Return what the program says of its banner.  Raises UpstreamError."""
    with trio.socket.from_stdlib_socket(socket.socket(fileno=fd)) as drawn:
        with trio.move_on_after(_START_SECONDS):
            if reply := await drawn.recv(1):
                return reply
    raise UpstreamError("the program that draws it has failed")
