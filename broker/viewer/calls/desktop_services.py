"""The desktop as a target of calls: services of the user's files, and our own."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from broker.core.errors import SetupError
from broker.core.services import NOTIFICATION, TRAY
from broker.core.stderr_log import log_stderr
from broker.ipc.session.service_orders import (
    SERVE_NOW,
    START_SERVICE,
    ServeNow,
    StartService,
)
from broker.viewer.calls.places import CallPlaces
from broker.viewer.camera import Cameras
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.looks import DesktopSettings
from broker.viewer.notifications.notification_service import NotificationService
from broker.viewer.orders.filtered_bus import FilteredBus
from broker.viewer.orders.session_orders import UserSession
from broker.viewer.screens import ScreenShares
from broker.viewer.secrets import UserSecrets
from broker.viewer.tray.tray_icons import TrayIcons

if TYPE_CHECKING:
    from broker.authority.permit import Permit, Request
    from broker.viewer.exchange.guest_connection import GuestConnection

    ServeDaemon = Callable[[GuestConnection, Request], Awaitable[None]]


class DesktopServices:
    """The services that the user's desktop has."""

    def __init__(
        self,
        session: UserSession,
        cameras: Cameras,
        screens: ScreenShares,
        notifications: NotificationService,
        bus: FilteredBus,
    ) -> None:
        self.session = session
        self.settings = DesktopSettings(bus.settings)
        self.secrets = UserSecrets(session)
        self.cameras = cameras
        self.screens = screens
        self.tray = TrayIcons(bus.tray)
        self.daemons: Mapping[str, ServeDaemon] = MappingProxyType(
            {NOTIFICATION: notifications.serve, TRAY: self.tray.serve}
        )
        """What serves the daemons of sandboxes, by service."""

    @asynccontextmanager
    async def serving(
        self, order: StartService, permit: Permit, places: CallPlaces, caller: str
    ) -> AsyncIterator[socket.socket]:
        """Run the user's service in its jail while the block runs, by its permit.

        Yields its end of the stream.  Raises ShareableError where the user has none of this
        name or too many of it run, SetupError without bubblewrap, UpstreamError where
        it does not start, RefusedError if its path leads through a link.
        """
        name = order.service
        async with AsyncExitStack() as stack:
            carrying_out = self.session.carrying_out(
                START_SERVICE, order, warrant=permit.warrant
            )
            try:
                begun = await stack.enter_async_context(carrying_out)
            except SetupError as error:
                for line in (error.hint or error.message).splitlines():
                    log_stderr(f"vitrail: {line}")
                raise ShareableError(f"cannot start the service {name}") from error
            concurrent = begun.value.concurrent
            if concurrent is None:
                raise ShareableError(f"the user's desktop has no service {name}")
            with places.one("", name, concurrent, caller):
                try:
                    started = await begun.more(SERVE_NOW, ServeNow())
                    with socket.socket(fileno=started.fds[0]) as far:
                        async with begun.held(permit.renewed):
                            yield far
                finally:
                    await begun.end()
