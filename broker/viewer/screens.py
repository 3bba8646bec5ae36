"""``vitrail.ScreenShare``: a screen or window of the desktop, for programs of a sandbox.

The user says yes to it, chooses it in the desktop's own dialog, if that shows one
(org.freedesktop.portal.ScreenCast), and it has a frame in the sandbox's colour while it
is shared.  The portal's connection to PipeWire sees only the chosen node;
``broker.session.video.pipewire_video`` takes its pictures.
"""

from __future__ import annotations

import operator
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Final

import trio
from jeepney.bus_messages import message_bus
from typing_extensions import override

from broker.authority.audit import event_log
from broker.core.errors import UpstreamError
from broker.core.language.catalogue import mark
from broker.core.lease import Lease
from broker.helpers.prompt.translation import tr
from broker.ipc.audit import schema
from broker.ipc.session.media_orders import (
    SHOW_FRAME,
    TAKE_SCREEN,
    ShowFrame,
    TakeScreen,
)
from broker.net.desktop_bus import Options
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.orders.desktop_portal import (
    DISMISSED,
    PortalBus,
    portal_bus,
)
from broker.viewer.orders.filtered_bus import FilteredBus
from broker.viewer.orders.session_orders import Begun, UserSession
from broker.viewer.pipewire_video import (
    START_SECONDS,
    VideoEvent,
    VideoSource,
    VideoUse,
    VideoUses,
)
from broker.viewer.uses.use_signs import SCREEN, UseKind, UseSigns
from broker.wire.row import Empty

SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"1280x720": (1280, 720), "1920x1080": (1920, 1080)}
)
"""The sizes that a sandbox may ask for, in pixels."""
OWN: Final = "own"
"""The argument for a window of the sandbox itself, also in rules: nothing is chosen."""
_CAST: Final = "org.freedesktop.portal.ScreenCast"
_SESSION: Final = "org.freedesktop.portal.Session"
_HINT = "install xdg-desktop-portal and its backend for your desktop, for example xdg-desktop-portal-wlr"
CHOOSE_SECONDS = 120.0
"""For the user, in the desktop's dialog."""
_SCREEN, _WINDOW = 1, 2
_WITH_POINTER = 2
_GONE = "the shared window or screen no longer exists"
_CHOOSING = UseKind(
    "video-display",
    mark("{name} wants to see your screen"),
    "{source}",
    least_seconds=0.0,
)


@dataclass(frozen=True)
class SharedScreen:
    """What the user has chosen."""

    node: int
    window: bool
    size: tuple[int, int] = (0, 0)
    position: tuple[int, int] = (0, 0)

    @property
    def shown(self) -> str:
        """The description in the user's notification."""
        kind = tr("a window") if self.window else tr("a screen")
        size = f"{self.size[0]}x{self.size[1]}"
        return tr("{kind} of {size}", kind=kind, size=size) if all(self.size) else kind

    @property
    def title(self) -> str:
        """The description in errors."""
        kind = "a window" if self.window else "a screen"
        return f"{kind} of {self.size[0]}x{self.size[1]}" if all(self.size) else kind

    @property
    def facts(self) -> Mapping[str, str | int]:
        """What the event says of it."""
        width, height = self.size
        shows = "window" if self.window else "screen"
        return {"shows": shows, "width": width, "height": height}


class ScreenShares(VideoUses):
    """What one viewer's sandboxes see of the desktop."""

    noun = "the screen"
    kind = SCREEN
    on: ClassVar[VideoEvent] = schema.ScreenOn
    off: ClassVar[VideoEvent] = schema.ScreenOff

    def __init__(
        self,
        log: event_log.EventLog,
        session: UserSession,
        bus: FilteredBus,
        signs: UseSigns,
    ) -> None:
        super().__init__(log, session, signs)
        self._bus = bus
        self._dialog = False

    @override
    @asynccontextmanager
    async def source(self, use: VideoUse) -> AsyncIterator[VideoSource]:
        """Start a cast of the screen that the user chose; yield it as a video source.

        See ``VideoUses``.
        """
        connect = partial(self._bus.screens, use.permit.warrant, use.permit.renewed)
        async with portal_bus(connect, _CAST, "screen sharing", _HINT) as bus:
            session, found = await self._chosen(use, bus)
            no = partial(self.refuse_a_while, use.lease)
            no_options: Options = {}
            remote = bus.message("OpenPipeWireRemote", session, no_options)
            reply = await bus.call(remote)
            with socket.socket(fileno=reply.body[0].to_raw_fd()) as server:
                # The portal closes the session with our connection to the bus.
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_closed, bus, session, no)
                    async with framed(self.session, use.colour, found, no) as seen:
                        yield VideoSource(
                            found.title,
                            TAKE_SCREEN,
                            partial(TakeScreen, found.node),
                            [server.fileno()],
                            facts=found.facts,
                            seen=seen,
                            shown=found.shown,
                        )
                    nursery.cancel_scope.cancel()

    async def share_own(
        self, lease: Lease, stream: int, start: Callable[[], Awaitable[None]]
    ) -> None:
        """Have a sandbox's worker show its window, until cancelled.

        Raises ShareableError, UpstreamError.
        """
        self.check_pace(lease)
        self._log.check_share(lease)
        async with self.recorded(lease, {"shows": "own-window"}, stream):
            await start()
            await trio.sleep_forever()

    async def _chosen(self, use: VideoUse, bus: PortalBus) -> tuple[str, SharedScreen]:
        """Have the user choose a screen; return it with the portal's session.

        Raises ShareableError.
        """
        # guard: one dialog about screens at a time
        if self._dialog:
            raise ShareableError(
                "cannot ask the user for a screen: the dialog is open for another request",
                hint="try again later",
            )
        name, choice = use.lease.sandbox, None
        self._dialog = True
        text = "Your desktop asks what to share."
        self.signs.show(_CHOOSING, name, active=True, source=text)
        try:
            # guard: a dialog that nobody answers goes
            with trio.move_on_after(CHOOSE_SECONDS):
                session, choice = await _asked(bus)
        finally:
            self._dialog = False
            self.signs.show(_CHOOSING, name, active=False)
            # Also one whose program has hung up meanwhile.
            # guard: a dialog that was dismissed is not shown again at once
            if choice is None:
                self.refuse_a_while(use.lease)
        if choice is None:
            raise ShareableError("the user did not select a window or screen")
        return session, choice


async def _asked(bus: PortalBus) -> tuple[str, SharedScreen | None]:
    """Show the desktop's dialog; returns the portal's session, and the choice."""
    offered = await bus.property("AvailableSourceTypes")
    pointer = await bus.property("AvailableCursorModes")
    if not isinstance(offered, int) or not isinstance(pointer, int):
        raise UpstreamError("the desktop's portal sent an invalid reply")
    options: Options = {"session_handle_token": ("s", f"v{secrets.token_hex(8)}")}
    _, made = await bus.request("CreateSession", options=options)
    session = str(made["session_handle"][1]) if isinstance(made, dict) else ""
    await bus.call(message_bus.AddMatch(bus.rule(session, _SESSION, "Closed")))
    options = {"types": ("u", offered & (_SCREEN | _WINDOW))}
    if pointer & _WITH_POINTER:
        options["cursor_mode"] = ("u", _WITH_POINTER)
    code, _ = await bus.request("SelectSources", session, options=options)
    if code in DISMISSED:
        return session, None
    answer = await bus.request("Start", session, "", options={})
    return session, screen_in(answer, windows=bool(offered & _WINDOW))


def screen_in(body: tuple[object, ...], *, windows: bool) -> SharedScreen | None:
    """Parse a screen from a response to ``Start``.  Raises UpstreamError.

    ``windows``: the desktop can share some; xdg-desktop-portal-wlr 0.7, which cannot,
    calls each screen a window.
    """
    code, results = (*body, None, None)[:2]
    if code in DISMISSED:
        return None
    try:
        ((node, found),) = results["streams"][1]  # type: ignore[index]
        window = windows and found.get("source_type", ("u", 0))[1] == _WINDOW
        pairs = [found.get(key, ("", (0, 0)))[1] for key in ("size", "position")]
        (width, height), (x, y) = pairs
        # int() would take text and doubles, and raise OverflowError for infinity.
        # guard: a portal's numbers are whole numbers
        number, *place = map(operator.index, (node, width, height, x, y))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise UpstreamError("the desktop's portal sent an invalid reply") from error
    return SharedScreen(number, window, (place[0], place[1]), (place[2], place[3]))


async def _until_closed(
    bus: PortalBus, session: str, ended: Callable[[], None]
) -> None:
    """Wait until the portal's session is closed, then call ``ended``."""
    await bus.signal(bus.rule(session, _SESSION, "Closed"))
    # guard: the desktop's own control ends a share for a while
    ended()
    # guard: a share ends with the desktop's session
    raise ShareableError(_GONE)


@asynccontextmanager
async def framed(
    session: UserSession, colour: str, found: SharedScreen, ended: Callable[[], None]
) -> AsyncIterator[Callable[[], None]]:
    """Show a frame around a shared screen while the block runs.  Raises VitrailError.

    Yields a function to call at the first picture.  Calls ``ended`` when the frame ends
    by itself: with its screen, or by the user.

    The desktop shows by itself which window is shared: no program can put a frame
    around a window of another.
    """
    if found.window:
        yield lambda: None
        return
    order = ShowFrame(colour.removeprefix("#"), *found.size, *found.position)
    try:
        async with session.carrying_out(SHOW_FRAME, order) as begun:
            with trio.socket.from_stdlib_socket(
                socket.socket(fileno=begun.fds[0])
            ) as drawn:
                with trio.fail_after(START_SECONDS):
                    said = await drawn.recv(1)
                # guard: a screen is seen once its frame is
                if not said:
                    raise UpstreamError("cannot draw the frame around a shared screen")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_gone, begun, ended)
                    yield drawn.close
                    nursery.cancel_scope.cancel()
    except trio.TooSlowError as error:
        raise UpstreamError(
            f"the frame around a shared screen was not drawn within {START_SECONDS:g} s"
        ) from error


async def _until_gone(begun: Begun[Empty], ended: Callable[[], None]) -> None:
    await begun.process.wait()
    # guard: the end of its frame ends a share for a while
    ended()
    raise ShareableError(_GONE)
