"""Connections to the session's bus: what starts, answers and ends."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from jeepney import new_error
from jeepney.io.trio import DBusConnection

from broker.core.errors import SetupError
from broker.ipc.session.bus_orders import BusConnection, ConnectBus
from broker.viewer.orders.filtered_bus import FilteredBus
from tests.kit.needs import requires
from tests.kit.session import starter_of_orders

pytestmark = requires("xdg-dbus-proxy")


@asynccontextmanager
async def starter(**environ):
    with starter_of_orders({**os.environ, **environ}) as session:
        yield session


async def test_a_session_without_a_bus_says_so():
    environ = {k: v for k, v in os.environ.items() if k != "DBUS_SESSION_BUS_ADDRESS"}
    with (
        starter_of_orders(environ) as session,
        pytest.raises(ConnectionError, match="this session has no D-Bus"),
    ):
        async with FilteredBus(session).notifications():
            pass


async def test_a_bus_that_has_gone_is_named_as_the_kernel_does(tmp_path):
    address = f"unix:path={tmp_path}/none"
    async with starter(DBUS_SESSION_BUS_ADDRESS=address) as session:
        with pytest.raises(ConnectionError) as caught:
            async with FilteredBus(session).notifications():
                pass
    assert caught.value.strerror == os.strerror(errno.ENOENT)


async def test_without_the_proxy_nothing_is_connected(tmp_path):
    environ = {"PATH": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": "unix:path=/none"}
    async with starter(**environ) as session:
        with pytest.raises(SetupError, match="xdg-dbus-proxy is not installed"):
            await session.carry_out(ConnectBus("notifications"))


def test_the_child_has_no_event_loop():
    code = (
        "import sys, broker.session.session_bus_filter; sys.exit('trio' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
    assert done.returncode == 0


class Refusing:
    """A session whose bus answers the first call with an error."""

    def __init__(self, nursery):
        self._nursery = nursery

    @asynccontextmanager
    async def carrying_out(self, row, order, *, warrant=b""):
        del row, order, warrant
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        bus = DBusConnection(trio.socket.from_stdlib_socket(theirs))

        async def answer():
            hello = await bus.receive()
            name = "org.freedesktop.DBus.Error.LimitsExceeded"
            await bus.send(new_error(hello, name, "s", ("too many connections",)))

        async with bus:
            self._nursery.start_soon(answer)
            try:
                yield SimpleNamespace(fds=(ours.detach(), read), value=BusConnection())
            finally:
                os.close(write)


async def test_a_bus_that_refuses_is_as_one_that_is_not_there():
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectionError, match="too many connections"):
            async with FilteredBus(Refusing(nursery)).notifications():
                pass
