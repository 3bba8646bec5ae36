"""A connection to the user's sound server, which a session child makes and ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from broker.authority.permit import Permit
from broker.core.errors import RefusedError, SetupError, UpstreamError, sole
from broker.ipc.session.media_orders import CONNECT_SOUND, ConnectSound
from broker.net.connection_quota import SoundPlaces, SoundSlot
from broker.viewer.hung_up import when_hung_up
from broker.viewer.orders.session_orders import UserSession


@asynccontextmanager
async def sound_connection(
    session: UserSession, permit: Permit, quota: SoundPlaces
) -> AsyncIterator[socket.socket]:
    """Open a connection, which ends with the block, or with its permit for sound.

    Raises SetupError or UpstreamError when no sound server is to be had, RefusedError
    where the permit is not for it.
    """
    quota.server.require_server()
    connected = False
    try:
        async with session.carrying_out(
            CONNECT_SOUND, ConnectSound(), warrant=permit.warrant
        ) as begun:
            connected = True
            with socket.socket(fileno=begun.fds[0]) as server:
                server.setblocking(False)  # noqa: FBT003 -- socket's own
                async with begun.held(permit.renewed):
                    yield server
    except (SetupError, UpstreamError) as error:
        if not connected:
            quota.server.note_absence(error)
        raise


@asynccontextmanager
async def reserve_sound(
    quota: SoundPlaces, conn: socket.socket, waits: Callable[[], Awaitable[None]]
) -> AsyncIterator[SoundSlot]:
    """Hold a place for a program's connection while the block runs; wait for one.

    Yields the place that ``SoundPlaces.reserve`` yields.  Calls ``waits`` before that.
    Raises RefusedError if the program gives up, or no place becomes free in time.
    """
    async with AsyncExitStack() as reservation:
        ended = trio.Event()
        with trio.CancelScope() as hung_up:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(when_hung_up, conn, ended, hung_up.cancel)
                    slot = await reservation.enter_async_context(quota.reserve(waits))
                    ended.set()
            except ExceptionGroup as error:
                raise sole(error) from error
        if not ended.is_set():
            raise RefusedError("the program closed its connection before its turn")
        yield slot
