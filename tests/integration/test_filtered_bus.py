"""Filtered connections to a real session bus: how they end."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import asynccontextmanager

import pytest
import trio

from broker.ipc.session.bus_orders import ConnectBus
from broker.viewer.orders.filtered_bus import FilteredBus, bus_on
from tests.integration.test_notification_server import bus
from tests.kit.needs import requires
from tests.kit.session import starter_of_orders

pytestmark = requires("dbus-daemon", "xdg-dbus-proxy")


@asynccontextmanager
async def orders():
    with starter_of_orders() as session:
        yield session


async def receive_all(connection):
    while True:
        await connection.receive()


async def test_a_connection_outlives_signals_to_the_broker_and_ends_with_its_block(
    monkeypatch,
):
    async with bus(monkeypatch), orders() as session:
        async with session.carrying_out(ConnectBus("notifications")) as begun:
            fd, end = begun.fds
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(begun.process.pid, number)
            async with bus_on(socket.socket(fileno=fd)) as connection:
                assert connection.unique_name
            os.close(end)
            await begun.process.wait()
        found = FilteredBus(session)
        async with found.notifications() as one, found.notifications() as other:
            assert one.unique_name != other.unique_name


async def test_a_proxy_that_ends_is_the_end_of_its_connection(monkeypatch):
    async with (
        bus(monkeypatch),
        orders() as session,
        session.carrying_out(ConnectBus("notifications")) as begun,
    ):
        fd, end = begun.fds
        async with bus_on(socket.socket(fileno=fd)) as connection:
            os.kill(begun.process.pid, signal.SIGKILL)
            with pytest.raises((trio.EndOfChannel, trio.BrokenResourceError)):
                await receive_all(connection)
        os.close(end)
