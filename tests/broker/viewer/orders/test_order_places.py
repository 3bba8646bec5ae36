"""Places for orders: a record's share, and those that are kept for the user."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.lease import Opening
from broker.core.services import CALL, SSH_AGENT
from broker.ipc.session.service_orders import UseAgent
from broker.viewer.orders import order_places
from broker.viewer.orders.order_places import OrderPlaces, caused_by
from broker.viewer.role import ViewerRole
from tests.kit.rulebook import WORK
from tests.kit.session import Signed, session

__all__ = ["session"]


@pytest.fixture(name="few", autouse=True)
def _few(monkeypatch):
    """Eight places, of which sandboxes share six."""
    monkeypatch.setattr(order_places, "ORDERS", 8)
    monkeypatch.setattr(order_places, "ORDERS_OF_USER", 2)


async def taken(session, stack, record, most=9):
    """Return how many orders of a record children carry out at one time."""
    for count in range(most):
        order = Signed(
            session.permit(SSH_AGENT, argument="+list", target="vault"), UseAgent()
        )
        with caused_by(record):
            try:
                await stack.enter_async_context(session.carrying_out(order))
            except RefusedError:
                return count
    return most


async def test_a_records_orders_leave_places_to_others_and_the_user(session):
    """Connections to an ssh agent took all of them, and 'brokerctl cp' had none."""
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            async with AsyncExitStack() as first:
                assert await taken(session, first, "greedy") == 3
                assert await taken(session, stack, "other") == 2
                assert await taken(session, stack, "third") == 1
                assert await taken(session, stack, "", most=4) == 4
                assert await taken(session, stack, "greedy") == 0
            # What has ended is free again.
            assert await taken(session, stack, "fourth") == 2


async def test_tasks_count_to_the_record_that_has_started_them():
    places, counted = OrderPlaces(), []

    async def later():
        await trio.lowlevel.checkpoint()
        with places.one():
            counted.append(dict(places._taken))

    async with trio.open_nursery() as nursery:
        with caused_by("work"):
            nursery.start_soon(later)
    with places.one():
        counted.append(dict(places._taken))
    assert counted == [{"work": 1}, {}]


async def test_a_stream_of_a_sandbox_is_caused_by_its_record():
    found = []

    async def permitted(*_):
        await trio.lowlevel.checkpoint()
        found.append(order_places._cause.get())

    role = SimpleNamespace(_permitted=permitted)
    near, far = socket.socketpair()
    with near, far:
        opening = Opening(WORK, CALL, 1, "vsock:3")
        await ViewerRole.stream_opened(
            role, opening, near, task_status=trio.TASK_STATUS_IGNORED
        )
    assert found == [WORK.record]
    assert order_places._cause.get() == ""
