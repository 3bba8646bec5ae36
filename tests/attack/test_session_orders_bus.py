"""A viewer that was taken over has the session's bus through a filter.

Each attack is tried on a connection of the user's own, too, where it succeeds.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from jeepney import (
    DBusAddress,
    HeaderFields,
    MessageType,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.bus_messages import message_bus
from jeepney.io.trio import open_dbus_connection

from broker.core.errors import RefusedError
from broker.core.services import AUDIO, CAMERA, SCREEN_SHARE
from broker.ipc.session.bus_orders import ConnectBus, ConnectScreens, HoldPermit
from broker.viewer.orders import session_orders
from broker.viewer.orders.filtered_bus import FilteredBus
from tests.integration.test_notification_server import bus
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.relay.sockets import fds
from tests.kit.session import Signed, starter_of_orders

pytestmark = requires("dbus-daemon", "xdg-dbus-proxy")
SYSTEMD = "org.freedesktop.systemd1"
PORTAL, PORTAL_PATH = (
    "org.freedesktop.portal.Desktop",
    "/org/freedesktop/portal/desktop",
)
NOTIFICATIONS = "org.freedesktop.Notifications"
WATCHER = "org.kde.StatusNotifierWatcher"
OTHER_ITEM = "org.kde.StatusNotifierItem-1-1"
NAMES = (SYSTEMD, PORTAL, NOTIFICATIONS, WATCHER, OTHER_ITEM)
USES = ("notifications", "settings", "screens", "tray")


class Desktop:
    """All programs of a session: they do what they are asked."""

    def __init__(self, connection):
        self.connection = connection
        self.called = []
        self.told = []

    async def serve(self):
        while True:
            call = await self.connection.receive()
            if call.header.message_type is MessageType.method_call:
                fields = call.header.fields
                place = fields[HeaderFields.interface], fields[HeaderFields.member]
                self.called.append(".".join(place))
                await self.connection.send(new_method_return(call))
            elif call.header.fields.get(HeaderFields.destination):
                self.told.append(call.header.fields[HeaderFields.member])


@asynccontextmanager
async def session(monkeypatch, prepare=""):
    """The session's programs, and what takes a viewer's orders."""
    async with (
        bus(monkeypatch) as address,
        await open_dbus_connection(address) as connection,
    ):
        async with connection.router() as router:
            for name in NAMES:
                await router.send_and_get_reply(message_bus.RequestName(name))
        desktop = Desktop(connection)
        with starter_of_orders(prepare=prepare) as orders:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(desktop.serve)
                yield desktop, orders
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(orders, use):
    """A router: of the user's own connection, or of a use's."""
    async with AsyncExitStack() as stack:
        found = FilteredBus(orders)
        if use == "own":
            opened = await open_dbus_connection()
        elif use == "screens":
            opened = found.screens(orders.permit(SCREEN_SHARE), lambda: b"")
        else:
            opened = getattr(found, use)()
        made = await stack.enter_async_context(opened)
        connection = made[0] if isinstance(made, tuple) else made
        yield await stack.enter_async_context(connection.router())


async def fails(router, call):
    """The name of the error that a call is answered by; empty: there is none."""
    answer = await router.send_and_get_reply(call)
    if answer.header.message_type is MessageType.method_return:
        return ""
    return answer.header.fields[HeaderFields.error_name].rpartition(".")[2]


def call(name, path, interface, member, signature=None, *body):
    return new_method_call(DBusAddress(path, name, interface), member, signature, body)


def portal_call(interface, member):
    return call(PORTAL, PORTAL_PATH, f"org.freedesktop.portal.{interface}", member)


ATTACKS = {
    "start a program": call(
        SYSTEMD,
        "/org/freedesktop/systemd1",
        f"{SYSTEMD}.Manager",
        "StartTransientUnit",
        "ss",
        *("mine.service", "fail"),
    ),
    "set the session's environment": call(
        SYSTEMD, "/org/freedesktop/systemd1", f"{SYSTEMD}.Manager", "SetEnvironment"
    ),
    "choose a file": portal_call("FileChooser", "OpenFile"),
    "open a link": portal_call("OpenURI", "OpenURI"),
    "run in the background": portal_call("Background", "RequestBackground"),
    "press keys": portal_call("RemoteDesktop", "CreateSession"),
    "click another's icon": call(
        OTHER_ITEM, "/StatusNotifierItem", "org.kde.StatusNotifierItem", "Activate"
    ),
    "act for the server": call(
        NOTIFICATIONS, "/fr/emersion/Mako", "fr.emersion.Mako", "InvokeAction"
    ),
    "another object": call(NOTIFICATIONS, "/other", NOTIFICATIONS, "Notify"),
    "another interface's member": call(
        NOTIFICATIONS, "/org/freedesktop/Notifications", "org.other", "Notify"
    ),
    "write a property of the panel": call(
        WATCHER, "/StatusNotifierWatcher", "org.freedesktop.DBus.Properties", "Set"
    ),
    "read another's icon": call(
        OTHER_ITEM, "/StatusNotifierItem", "org.freedesktop.DBus.Properties", "Get"
    ),
    "write a property": call(
        PORTAL, PORTAL_PATH, "org.freedesktop.DBus.Properties", "Set"
    ),
}


@pytest.mark.parametrize("use", USES)
async def test_only_the_calls_of_its_use_arrive(monkeypatch, use):
    async with session(monkeypatch) as (desktop, orders):
        async with connected(orders, "own") as router:
            for what, attack in ATTACKS.items():
                assert not await fails(router, attack), what
        assert len(desktop.called) == len(ATTACKS)
        owner = desktop.connection
        async with connected(orders, use) as router:
            for what, attack in ATTACKS.items():
                error = await fails(router, attack)
                assert error in {"AccessDenied", "ServiceUnknown"}, what
                # A filter of names alone would not know whose the unique one is.
                fields = attack.header.fields
                well_known = fields[HeaderFields.destination]
                fields[HeaderFields.destination] = owner.unique_name
                assert await fails(router, attack), what
                fields[HeaderFields.destination] = well_known
        assert len(desktop.called) == len(ATTACKS)


@pytest.mark.parametrize("use", USES)
async def test_no_signal_goes_to_another_program(monkeypatch, use):
    async with session(monkeypatch) as (desktop, orders):
        async with connected(orders, use) as router:
            for name in NAMES:
                await router.send(signal_to(name, "Filtered"))
            await fails(router, message_bus.GetId())
        async with connected(orders, "own") as router:
            await router.send(signal_to(SYSTEMD, "Own"))
            await fails(router, ATTACKS["start a program"])
        told = [one for one in desktop.told if one in {"Filtered", "Own"}]
        assert told == ["Own"]


def signal_to(name, member):
    signal = new_signal(DBusAddress("/any", interface="org.example.Any"), member)
    signal.header.fields[HeaderFields.destination] = name
    return signal


EAVESDROPS = (
    "eavesdrop=true",
    "eavesdrop='true',type='method_call'",
    "type='method_call', eavesdrop ='true'",
    "type='method_call',   eavesdrop   =true",
)


@pytest.mark.parametrize("use", USES)
async def test_a_filtered_connection_hears_no_other_programs(monkeypatch, use):
    monitor = new_method_call(
        DBusAddress(
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "org.freedesktop.DBus.Monitoring",
        ),
        "BecomeMonitor",
        "asu",
        ([], 0),
    )
    async with session(monkeypatch) as (_, orders):
        async with connected(orders, "own") as router:
            for rule in EAVESDROPS:
                assert not await fails(router, message_bus.AddMatch(rule)), rule
            assert not await fails(router, monitor)
        async with (
            connected(orders, use) as router,
            connected(orders, "own") as ear,
            connected(orders, "own") as own,
        ):
            for rule in EAVESDROPS:
                assert await fails(router, message_bus.AddMatch(rule)), rule
            assert await fails(router, monitor)
            assert await fails(
                router, message_bus.UpdateActivationEnvironment({"LD_PRELOAD": "x"})
            )
            # And a broadcast of a program that the use does not name.
            told, heard = [], []
            for one, into in ((router, told), (ear, heard)):
                assert not await fails(one, message_bus.AddMatch("type='signal'"))
                one.filter(_All(into))
            place = DBusAddress("/secret", interface="org.example.Secret")
            await own.send(new_signal(place, "Told", "s", ("secret",)))
            await fails(own, message_bus.ListNames())
            for one in (router, ear):
                await fails(one, message_bus.GetId())
            assert "Told" in heard
            assert "Told" not in told


class _All:
    """A rule that writes down the members of all signals."""

    def __init__(self, told):
        self.told = told

    def matches(self, message):
        self.told.append(message.header.fields.get(HeaderFields.member))
        return False


@pytest.mark.parametrize("use", USES)
async def test_no_name_of_another_program_is_taken(monkeypatch, use):
    free = "org.kde.StatusNotifierItem-1-2"
    async with session(monkeypatch) as (_, orders):
        async with connected(orders, "own") as router:
            assert not await fails(router, message_bus.RequestName(free))
            assert not await fails(router, message_bus.ReleaseName(free))
            # It waits for what has an owner, and follows it.
            assert not await fails(router, message_bus.RequestName(NOTIFICATIONS))
        async with connected(orders, use) as router:
            for name in (free, OTHER_ITEM, NOTIFICATIONS, PORTAL, "org.example.New"):
                assert await fails(router, message_bus.RequestName(name)), name


async def test_an_icon_has_its_own_name(monkeypatch):
    async with session(monkeypatch) as (_, orders):
        found = FilteredBus(orders)
        async with found.tray() as (one, name), found.tray() as (two, other):
            assert name != other
            async with one.router() as router, two.router() as second:
                assert await fails(second, message_bus.RequestName(name))
                assert not await fails(router, message_bus.RequestName(name))


@pytest.mark.parametrize(
    "forge",
    [
        lambda orders: b"",
        lambda orders: b"x" * 80,
        lambda orders: orders.permit(SCREEN_SHARE)[:-1] + b" ",
        lambda orders: orders.permit(AUDIO),
        lambda orders: orders.permit(CAMERA),
        lambda orders: orders.permit(SCREEN_SHARE, target="mail-1"),
        lambda orders: orders.permit(SCREEN_SHARE, argument="+own"),
    ],
    ids=["none", "other key", "changed", "sound", "camera", "target", "own windows"],
)
async def test_screens_are_reached_by_a_permit_to_share_one(monkeypatch, forge):
    async with session(monkeypatch) as (desktop, orders):
        with pytest.raises(RefusedError):
            await orders.carry_out(Signed(forge(orders), ConnectScreens()))
        async with connected(orders, "screens") as router:
            assert not await fails(router, portal_call("ScreenCast", "CreateSession"))
    assert desktop.called == ["org.freedesktop.portal.ScreenCast.CreateSession"]


SHORT = "from broker.session import read_warrant; read_warrant.SECONDS = 2.0"


@asynccontextmanager
async def begun_screens(orders):
    """A viewer that was taken over has the portal's screens; yields what it has."""
    order = Signed(orders.permit(SCREEN_SHARE), ConnectScreens())
    async with orders.carrying_out(order) as begun:
        (fd,) = begun.fds
        sock = trio.socket.from_stdlib_socket(socket.socket(fileno=fd))
        with sock:
            yield begun, sock


async def test_the_portals_screens_end_with_their_permit(monkeypatch):
    """Whatever a viewer keeps open; its filter is ended, and the desktop's cast with it."""
    async with (
        session(monkeypatch, SHORT) as (_, orders),
        begun_screens(orders) as (begun, sock),
    ):
        for _ in range(5):
            fresh = orders.permit(SCREEN_SHARE, renewed=True)
            await begun.more(Signed(fresh, HoldPermit()))
            await trio.sleep(0.5)  # past the time of the first one
        assert not ended(sock)
        with trio.fail_after(30):
            assert await closed(sock)
            await begun.process.wait()


async def closed(sock):
    """Whether the far end closes, and answers nothing more."""
    try:
        return await sock.recv(1) == b""
    except ConnectionResetError:
        return True


def ended(sock):
    """Whether the far end has closed."""
    try:
        with socket.socket(fileno=os.dup(sock.fileno())) as same:
            return not same.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


@pytest.mark.parametrize(
    "forge",
    [
        lambda orders: b"",
        lambda orders: orders.permit(SCREEN_SHARE, renewed=True)[:-1] + b" ",
        lambda orders: orders.permit(SCREEN_SHARE, sandbox="mail-1", renewed=True),
        lambda orders: orders.permit(CAMERA, renewed=True),
        lambda orders: orders.permit(SCREEN_SHARE, argument="+own", renewed=True),
        lambda orders: orders.permit(
            SCREEN_SHARE, at=time.monotonic() - 61, renewed=True
        ),
    ],
    ids=["none", "changed", "sandbox", "camera", "own windows", "old"],
)
async def test_screens_are_held_by_their_own_permit(monkeypatch, forge):
    async with (
        session(monkeypatch) as (_, orders),
        begun_screens(orders) as (begun, sock),
    ):
        with pytest.raises(RefusedError):
            await begun.more(Signed(forge(orders), HoldPermit()))
        with trio.fail_after(30):
            assert await closed(sock)


async def test_nothing_begins_by_a_permit_that_goes_on(monkeypatch):
    async with session(monkeypatch) as (_, orders):
        warrant = orders.permit(SCREEN_SHARE, renewed=True)
        with pytest.raises(RefusedError, match="cannot begin"):
            await orders.carry_out(Signed(warrant, ConnectScreens()))


async def test_a_share_goes_on_while_its_permit_is_renewed(monkeypatch):
    """As a viewer holds it."""
    monkeypatch.setattr(session_orders, "HOLD_SECONDS", 0.3)
    async with session(monkeypatch, SHORT) as (_, orders):

        def renewed():
            return orders.permit(SCREEN_SHARE, renewed=True)

        bus = FilteredBus(orders).screens(orders.permit(SCREEN_SHARE), renewed)
        async with bus as connection, connection.router() as router:
            until = trio.current_time() + 3
            while trio.current_time() < until:
                assert not await fails(router, message_bus.GetId())


async def test_a_proxy_has_one_connection_and_nothing_of_the_broker(monkeypatch):
    async with session(monkeypatch) as (_, orders):
        order = ConnectBus("notifications")
        async with orders.carrying_out(order) as begun:
            fd, end = begun.fds
            with socket.socket(fileno=fd):
                pid = begun.process.pid
                proc = Path(f"/proc/{pid}")
                assert proc.joinpath("comm").read_text().startswith("xdg-dbus-proxy")
                assert "deleted" in os.readlink(proc / "cwd")
                assert proc.joinpath("environ").read_bytes() == b""
                # Standard files, a pipe to the viewer, its event files, and three sockets:
                # one that listens, one to each side.
                links = fds(pid)
                sockets = [link for link in links if link.startswith("socket:")]
                assert len(sockets) == 3, links
                assert len(links) <= 10, links
            os.close(end)
        # It is reaped a moment after its end.
        await eventually(lambda: not proc.exists())
