"""Counting requests, and what waits to be fetched."""

from __future__ import annotations

import os

import pytest
import trio

from broker.core.errors import PeerError, RefusedError
from broker.core.lease import Opening
from broker.core.limits import transfer as limits
from broker.core.services import OPEN_URL
from broker.core.transfer.quota import Quota
from broker.ipc import transfer as messages
from broker.ipc.guest.file_requests import OpenUrl
from broker.viewer.exchange.guest_connection import Delivery, Gift, GuestConnections
from broker.viewer.exchange.returns import Return
from broker.viewer.transfer.meter import DayMeter
from policy.records.model import Transfer
from tests.kit.rulebook import WORK

DAY = 86400.0
ALLOWED = Transfer(
    file_size=10,
    request_size=10,
    request_files=3,
    day_size=25,
    day_requests=3,
    keep_free=0,
)


def delivery():
    read, write = os.pipe()
    os.close(write)
    return Delivery("work", False, Quota(1, 1, 1), read)


def on(stream):
    return Opening(WORK, OPEN_URL, stream, "vsock:3")


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_sandbox_has_so_many_requests_at_one_time():
    exchanges = GuestConnections()
    opened = [exchanges.one(None, on(n)) for n in range(limits.TRANSFERS_PER_SANDBOX)]
    for one in opened:
        one.__enter__()
    with pytest.raises(RefusedError), exchanges.one(None, on(99)):
        pass
    opened[0].__exit__(None, None, None)
    with exchanges.one(None, on(99)):
        pass


def test_a_token_fetches_once():
    exchanges = GuestConnections()
    sent = delivery()
    with exchanges.deliveries.one("a" * 32, sent):
        with pytest.raises(RefusedError):
            exchanges.deliveries.take("b" * 32)
        assert exchanges.deliveries.take("a" * 32) is sent
        with pytest.raises(RefusedError):
            exchanges.deliveries.take("a" * 32)
        sent.end("")
    assert sent.reason == ""


def test_what_nothing_fetches_is_given_up_with_its_pipe():
    exchanges = GuestConnections()
    sent = delivery()
    fd = sent.pipe
    with exchanges.deliveries.one("a" * 32, sent):
        assert is_open(fd)
    assert not is_open(fd)
    assert sent.reason == "the transfer was cancelled"
    with pytest.raises(RefusedError):
        exchanges.deliveries.take("a" * 32)


def test_so_much_may_wait_to_be_fetched():
    exchanges = GuestConnections()
    blocks = [
        exchanges.deliveries.one(f"{n:032}", delivery())
        for n in range(limits.OPENED_TOKENS)
    ]
    for block in blocks:
        block.__enter__()
    last = delivery()
    with pytest.raises(RefusedError), exchanges.deliveries.one("f" * 32, last):
        pass
    last.close_pipe()
    for block in blocks:
        block.__exit__(None, None, None)


async def test_a_worker_says_each_thing_once():
    exchanges = GuestConnections()
    asked = messages.TransferAsked(1, OpenUrl("https://a.b/"))
    with exchanges.one(None, on(1)) as exchange:
        exchanges.take(messages.TransferAsked(2, OpenUrl("https://c.d/")))
        exchanges.take(asked)
        assert await exchange.asked() == OpenUrl("https://a.b/")
        with pytest.raises(PeerError):
            exchanges.take(asked)
        exchanges.take(messages.TransferPassed(1, 1, 1, "x\x1b"))
        assert await exchange.passed() == "x\\x1b"
        with pytest.raises(PeerError):
            exchanges.take(messages.TransferPassed(1, 1, 1))


async def test_a_dead_worker_ends_its_requests():
    exchanges = GuestConnections()
    with exchanges.one(None, on(1)) as exchange:
        with trio.fail_after(5), exchange.scope:
            exchanges.worker_gone()
            await trio.sleep_forever()
        await exchange.wait_closed()
        assert exchange.closed.reason == "the worker died"


def test_a_day_has_so_many_requests_and_bytes():
    meter = DayMeter()
    meter.take("work", 10, ALLOWED, 0.0)
    meter.take("work", 10, ALLOWED, 1.0)
    with pytest.raises(RefusedError, match="25 bytes"):
        meter.take("work", 6, ALLOWED, 2.0)
    meter.take("work", 5, ALLOWED, 3.0)
    with pytest.raises(RefusedError, match="3 requests"):
        meter.take("work", 0, ALLOWED, 4.0)
    meter.take("other", 10, ALLOWED, 4.0)
    meter.take("work", 10, ALLOWED, DAY)
    with pytest.raises(RefusedError):
        meter.take("work", 0, ALLOWED, DAY)


def test_a_gift_is_taken_once_and_only_while_it_is_wanted():
    exchanges, gift = GuestConnections(), Gift("personal", 0.0)
    with exchanges.gifts.one("token", gift):
        with pytest.raises(RefusedError, match="token"):
            exchanges.gifts.take("another")
        assert exchanges.gifts.take("token") is gift
        with pytest.raises(RefusedError, match="token"):
            exchanges.gifts.take("token")
    with exchanges.gifts.one("later", gift):
        pass
    with pytest.raises(RefusedError, match="token"):
        exchanges.gifts.take("later")


def test_a_file_is_returned_once_and_only_while_it_is_edited():
    """A second one would be written over what the person has seen come back."""
    exchanges, way = GuestConnections(), Return("token", Quota(10, 10, 1))
    with exchanges.returns.one(way.token, way):
        with pytest.raises(RefusedError, match="token"):
            exchanges.returns.take("another")
        assert exchanges.returns.take("token") is way
        with pytest.raises(RefusedError, match="token"):
            exchanges.returns.take("token")
    with pytest.raises(RefusedError, match="token"):
        exchanges.returns.take("token")


async def test_what_is_returned_has_the_size_that_its_sender_takes():
    """It is refused before the sender opens anything for it."""
    way = Return("token", Quota(10, 10, 1))
    with trio.fail_after(60), pytest.raises(RefusedError, match="larger than 10"):
        await way.wait_open(11)
    with pytest.raises(RefusedError, match="larger than 10"):
        await way.wait_done()
