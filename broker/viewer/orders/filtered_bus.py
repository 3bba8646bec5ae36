"""The viewer's connections to the session's bus, each through a filter (``session.session_bus_filter``)."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import trio
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection

from broker.core.errors import SetupError, UpstreamError, sole
from broker.ipc.session.bus_orders import (
    CONNECT_BUS,
    CONNECT_SCREENS,
    BusUse,
    ConnectBus,
    ConnectScreens,
)
from broker.net.session_bus import answer_of
from broker.viewer.orders.session_orders import Begun, Renewed, UserSession
from broker.wire import fdpass
from broker.wire.row import Row

_Q = TypeVar("_Q", bound=msgspec.Struct)
_A = TypeVar("_A", bound=msgspec.Struct)

_HELLO_SECONDS = 5.0


@dataclass(frozen=True)
class FilteredBus:
    """Connects to the session's bus for one use."""

    session: UserSession

    @asynccontextmanager
    async def notifications(self) -> AsyncIterator[DBusConnection]:
        """Have a connection to the desktop's notification server; see ``_connected``."""
        async with self._used("notifications") as (connection, _):
            yield connection

    @asynccontextmanager
    async def settings(self) -> AsyncIterator[DBusConnection]:
        """Have a connection to the portal's settings; see ``_connected``."""
        async with self._used("settings") as (connection, _):
            yield connection

    @asynccontextmanager
    async def screens(
        self, warrant: bytes, renewed: Renewed
    ) -> AsyncIterator[DBusConnection]:
        """Yield a filtered bus connection for the portal's screens.

        The permit is held while the block runs.  Raises RefusedError when it has ended.
        """
        async with (
            self._connected(
                CONNECT_SCREENS, ConnectScreens(), warrant, descriptors=True
            ) as (connection, begun),
            begun.held(renewed),
        ):
            yield connection

    @asynccontextmanager
    async def tray(self) -> AsyncIterator[tuple[DBusConnection, str]]:
        """Have a connection to the panel, and an icon's bus name; see ``_connected``."""
        async with self._used("tray") as (connection, item):
            yield connection, item

    @asynccontextmanager
    async def _used(self, use: BusUse) -> AsyncIterator[tuple[DBusConnection, str]]:
        """Have a connection for a use, and an icon's bus name; see ``_connected``."""
        order = ConnectBus(use)
        async with self._connected(CONNECT_BUS, order) as (connection, begun):
            yield connection, begun.value.item

    @asynccontextmanager
    async def _connected(
        self,
        row: Row[_Q, _A],
        order: _Q,
        warrant: bytes = b"",
        *,
        descriptors: bool = False,
    ) -> AsyncIterator[tuple[DBusConnection, Begun[_A]]]:
        """Order a filtered bus connection; yield it and the order's child.

        Raises OSError without a bus or filter, RefusedError without a permit,
        trio.TooSlowError, or what a router does.
        """
        async with AsyncExitStack() as stack:
            try:
                begun = await stack.enter_async_context(
                    self.session.carrying_out(row, order, warrant=warrant)
                )
                fd, *ends = begun.fds
                stack.callback(fdpass.close_all, ends)
                sock = socket.socket(fileno=fd)
                connection = await stack.enter_async_context(
                    bus_on(sock, descriptors=descriptors)
                )
            except (SetupError, UpstreamError, ExceptionGroup) as error:
                # Of the router's nursery: one failure, in a wrapper.
                found = sole(error)
                if not isinstance(found, SetupError | UpstreamError):
                    raise
                # As a bus that is not there.
                raise ConnectionError(errno.ENOTCONN, found.message) from error
            yield connection, begun


@asynccontextmanager
async def bus_on(
    sock: socket.socket, *, descriptors: bool = False
) -> AsyncIterator[DBusConnection]:
    """Yield a D-Bus connection on an authenticated socket, which it closes.

    Raises UpstreamError, trio.TooSlowError, or what a router does.
    """
    end = trio.socket.from_stdlib_socket(sock)
    async with DBusConnection(end, enable_fds=descriptors) as connection:
        async with connection.router() as router:
            hello = await answer_of(router, message_bus.Hello(), _HELLO_SECONDS)
        connection.unique_name = hello.body[0]
        yield connection
