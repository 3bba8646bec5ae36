"""Our client of the desktop's notification server, on a real bus."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from jeepney import DBusAddress, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.trio import open_dbus_connection

from broker.helpers.process.spawn import DEVNULL, spawn
from broker.viewer.notifications.board import Bubble
from broker.viewer.notifications.desktop_server import DesktopServer, ServerTold
from broker.viewer.orders.filtered_bus import FilteredBus
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.needs import requires
from tests.kit.notified import no_other_server
from tests.kit.session import starter_of_orders
from tests.kit.wayland.compositor import short_directory

pytestmark = requires("dbus-daemon")
NAME = "org.freedesktop.Notifications"
PLACE = DBusAddress("/org/freedesktop/Notifications", bus_name=NAME, interface=NAME)


class Desktop:
    """A server that remembers; ``able``: its capabilities, None: an error."""

    def __init__(self, connection, able):
        self.connection = connection
        self.able = able
        self.shown = {}
        self.changed = trio.Event()

    async def serve(self):
        numbers = iter(range(1, 1000))
        while True:
            message = await self.connection.receive()
            if message.header.message_type is not MessageType.method_call:
                continue
            member, body = message.header.fields[3], message.body
            if member == "GetCapabilities" and self.able is None:
                answer = new_error(message, "org.freedesktop.DBus.Error.UnknownMethod")
            elif member == "GetCapabilities":
                answer = new_method_return(message, "as", (self.able,))
            elif member == "GetServerInformation":
                answer = new_method_return(message, "ssss", ("a", "b", "1", "1.2"))
            elif member == "Notify":
                number = body[1] or next(numbers)
                self.shown[number] = body
                answer = new_method_return(message, "u", (number,))
            else:
                self.shown.pop(body[0], None)
                answer = new_method_return(message)
            await self.connection.send(answer)
            self.changed.set()
            self.changed = trio.Event()

    async def until(self, *titles):
        while sorted(body[3] for body in self.shown.values()) != sorted(titles):
            await self.changed.wait()

    async def tell(self, member, *body, connection=None):
        signature = {str: "us", int: "uu"}[type(body[1])]
        await (connection or self.connection).send(
            new_signal(PLACE, member, signature, body)
        )


@asynccontextmanager
async def bus(monkeypatch):
    with short_directory() as base:
        address = f"unix:path={base}/bus"
        words = ["dbus-daemon", "--session", "--nofork", "--nopidfile"]
        env = {**os.environ, **no_other_server(base)}
        words.append(f"--address={address}")
        child = spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL)
        try:
            await eventually(lambda: takes_connections(base / "bus"))
            monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
            with trio.fail_after(60):
                yield address
        finally:
            await child.stop()


@asynccontextmanager
async def desktop(address, able=("body", "actions", "body-markup")):
    async with await open_dbus_connection(address) as connection:
        async with connection.router() as router:
            await router.send_and_get_reply(message_bus.RequestName(NAME))
        async with trio.open_nursery() as nursery:
            made = Desktop(connection, None if able is None else list(able))
            nursery.start_soon(made.serve)
            yield made
            nursery.cancel_scope.cancel()


class Client:
    def __init__(self, nursery, connected):
        self.told = []
        self.heard = trio.Event()
        self.server = DesktopServer(self.tell, connected)
        nursery.start_soon(self.server.run)

    def tell(self, told):
        self.told.append(told)
        self.heard.set()
        self.heard = trio.Event()

    async def hear(self, count):
        while len(self.told) < count:
            await self.heard.wait()
        return self.told


def bubble(title="work: s", body="&lt;b&gt;"):
    return Bubble(title, body, 1, (("default", "Show work"),), -1, 0x102030)


@asynccontextmanager
async def client():
    with starter_of_orders() as orders:
        async with trio.open_nursery() as nursery:
            yield Client(nursery, FilteredBus(orders).notifications)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_without_filter(address):
    """A client whose connection has no xdg-dbus-proxy in front of the bus."""

    @asynccontextmanager
    async def connected():
        async with await open_dbus_connection(address) as connection:
            yield connection

    async with trio.open_nursery() as nursery:
        yield Client(nursery, connected)
        nursery.cancel_scope.cancel()


async def test_it_shows_changes_and_closes(monkeypatch):
    async with bus(monkeypatch) as address, desktop(address) as there:
        async with client() as it:
            it.server.show(1, bubble())
            await there.until("work: s")
            ((number, body),) = there.shown.items()
            assert body[0] == "Vitrail"
            assert (body[4], body[5]) == ("&lt;b&gt;", ["default", "Show work"])
            assert body[6]["urgency"] == ("y", 1)
            it.server.show(1, bubble("work: t"))
            await there.until("work: t")
            assert list(there.shown) == [number]
            it.server.show(2, bubble("work: u"))
            await there.until("work: t", "work: u")
            it.server.close(1)
            await there.until("work: u")
        await there.until()  # the broker has ended


@pytest.mark.parametrize("filtered", [True, False])
async def test_a_forged_press_is_not_the_servers(monkeypatch, filtered):
    """The filter keeps other programs' signals back; the client ignores them, too."""
    async with (
        bus(monkeypatch) as address,
        desktop(address) as there,
        client() if filtered else client_without_filter(address) as it,
        await open_dbus_connection(address) as other,
    ):
        it.server.show(1, bubble())
        await there.until("work: s")
        await there.tell("ActionInvoked", 1, "default", connection=other)
        async with other.router() as router:  # the bus has passed it on by the answer
            await router.send_and_get_reply(message_bus.ListNames())
        await there.tell("ActionInvoked", 99, "default")  # another program's
        await there.tell("ActivationToken", 1, "token")
        await there.tell("ActionInvoked", 1, "default")
        await there.tell("NotificationClosed", 1, 2)
        assert await it.hear(2) == [
            ServerTold(1, "default", "token"),
            ServerTold(1, reason=2),
        ]


async def test_text_stays_escaped_for_a_server_that_does_not_say(monkeypatch):
    for able, shown in (
        (None, "&lt;b&gt;"),
        ((), "<b>"),
        (("body-markup",), "&lt;b&gt;"),
    ):
        async with (
            bus(monkeypatch) as address,
            desktop(address, able) as there,
            client() as it,
        ):
            it.server.show(1, bubble())
            await there.until("work: s")
            (body,) = there.shown.values()
            assert body[4] == shown
            assert bool(body[5]) is (able is None)


async def test_a_server_that_dies_ends_what_it_showed_and_the_next_one_is_used(
    monkeypatch,
):
    async with bus(monkeypatch) as address, client() as it:
        async with desktop(address) as there:
            it.server.show(1, bubble())
            await there.until("work: s")
        assert await it.hear(1) == [ServerTold(1)]
        async with desktop(address) as there:
            it.server.show(2, bubble("work: t"))
            await there.until("work: t")


def filters(address):
    """The proxies of this bus."""
    found = []
    for proc in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = proc.read_bytes().split(b"\0")
            if words[0] == b"xdg-dbus-proxy" and address.encode() in words:
                found.append(proc)
    return found


async def test_nothing_is_connected_while_nothing_is_shown(monkeypatch):
    """A connection's filter is a process, and a viewer runs all day."""
    async with bus(monkeypatch) as address, desktop(address) as there, client() as it:
        for number in (1, 3):
            assert filters(address) == []
            it.server.show(number, bubble())
            it.server.show(number + 1, bubble("work: t"))
            await there.until("work: s", "work: t")
            assert len(filters(address)) == 1
            it.server.close(number)
            await there.until("work: t")
            assert len(filters(address)) == 1
            # By the user.
            (theirs,) = there.shown
            there.shown.clear()
            await there.tell("NotificationClosed", theirs, 2)
            await eventually(lambda: not filters(address))
        assert await it.hear(2) == [ServerTold(2, reason=2), ServerTold(4, reason=2)]
        # One that comes while the connection ends is shown.
        for number in range(5, 15):
            it.server.show(number, bubble(f"work: {number}"))
            await there.until(f"work: {number}")
            it.server.close(number)
            await there.until()
        assert len(it.told) == 2


async def test_without_a_bus_a_notification_is_closed_at_once(monkeypatch):
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent")
    async with client() as it:
        it.server.show(1, bubble())
        assert await it.hear(1) == [ServerTold(1)]


async def test_cancelled_clients_end_without_an_error(monkeypatch):
    """jeepney's router failed where a filter was closed in the moment of its end."""
    async with bus(monkeypatch) as address, desktop(address) as there:
        for number in range(20):
            async with client() as it:
                it.server.show(number, bubble(f"work: {number}"))
                await there.until(f"work: {number}")
            there.shown.clear()
