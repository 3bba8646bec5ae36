"""Our client of the desktop's portal of settings, on a real bus."""

from __future__ import annotations

import trio
from jeepney import MessageType, new_error, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.trio import open_dbus_connection

from broker.viewer.looks import DesktopSettings
from broker.viewer.orders.filtered_bus import FilteredBus
from tests.integration.test_notification_server import bus
from tests.kit.needs import requires
from tests.kit.session import starter_of_orders

pytestmark = requires("dbus-daemon")
LOOKS = "org.freedesktop.appearance"


async def answer(connection):
    while True:
        message = await connection.receive()
        if message.header.message_type is MessageType.method_call:
            reply = new_error(message, "org.freedesktop.portal.Error.NotFound")
            if message.body == (LOOKS, "color-scheme"):
                reply = new_method_return(message, "v", (("u", 1),))
            await connection.send(reply)


async def test_cancelled_followers_end_without_an_error(monkeypatch):
    """jeepney's router failed where a filter was closed in the moment of its end."""
    async with (
        bus(monkeypatch) as address,
        await open_dbus_connection(address) as connection,
    ):
        async with connection.router() as router:
            name = "org.freedesktop.portal.Desktop"
            await router.send_and_get_reply(message_bus.RequestName(name))
        async with trio.open_nursery() as portal:
            portal.start_soon(answer, connection)
            with starter_of_orders() as orders:
                for _ in range(20):
                    await followed_for_a_moment(FilteredBus(orders))
            portal.cancel_scope.cancel()


async def followed_for_a_moment(found):
    settings = DesktopSettings(found.settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settings.run)
        async with settings.serving(dict) as conn:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(conn.dup()))
            async with stream:
                assert b"color-scheme" in await stream.receive_some(1000)
            nursery.cancel_scope.cancel()
