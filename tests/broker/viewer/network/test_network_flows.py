"""Flows of a sandbox on the viewer's side: asked about, held, cut, recorded."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

from broker.core.errors import RefusedError
from broker.core.framing import FrameReader
from broker.core.lease import Opening
from broker.core.limits import network as limits
from broker.core.services import NETWORK
from broker.core.streams import network_flows as m
from tests.kit.eventually import eventually
from tests.kit.rulebook import VAULT, WORK, lease_of, rulebook, yes

RULES = "vitrail.Network +*.test work @net allow port=443 protocol=tcp\n"
RECORD = 'class = "persistent"\nlaunch.kind = "bwrap"\nlaunch.network = "rules"\n'


class Filter:
    """The frame filter's end."""

    def __init__(self, conn):
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(conn))
        self.reader = FrameReader(m.MESSAGE_BYTES)
        self.messages = []

    async def send(self, *messages):
        await self.stream.send_all(b"".join(map(m.encode, messages)))

    async def hear(self):
        while not self.messages:
            data = await self.stream.receive_some(1000)
            if not data:
                return None
            self.messages += map(m.decode_to_filter, self.reader.feed(data))
        return self.messages.pop(0)

    async def ask(self, number, host="www.test", protocol="tcp", port=443):
        await self.send(m.AskFlow(number, host, protocol, port))
        return await self.hear()


@asynccontextmanager
async def network(rules=RULES):
    async with rulebook(rules, work=RECORD) as book:
        mine, theirs = socket.socketpair()
        flows = book.flows()
        opening = Opening(WORK, NETWORK, 1, "the test")
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(flows.carry, opening, theirs))
                talk = Filter(mine)
                async with talk.stream:
                    yield talk, book, flows


async def test_an_answer_holds_until_its_rule_goes():
    async with network() as (talk, book, flows):
        assert await talk.ask(1) == m.FlowAnswer(1, allowed=True)
        assert await talk.ask(2, port=80) == m.FlowAnswer(2, allowed=False)
        await talk.send(m.FlowBegun(3, 1, "192.0.2.1"))
        assert await talk.ask(4, "a.test", "dns", None) == m.FlowAnswer(4, allowed=True)
        (row,) = flows.rows(WORK.id)
        assert (row.host, row.address, row.port) == ("www.test", "192.0.2.1", 443)
        await book.change("50-test.policy", "")
        cut = [await talk.hear(), await talk.hear()]
        assert all(one in cut for one in (m.FlowCut(1), m.FlowCut(4)))
        await talk.send(m.FlowEnded(3, 10, 20, "its permission was revoked"))
        assert await talk.ask(5) == m.FlowAnswer(5, allowed=False)
        (closed,) = book.events("stream.closed")
        assert (closed["bytes_from_sandbox"], closed["bytes_to_sandbox"]) == (10, 20)
        assert closed["argument"] == "+www.test"
        assert flows.rows(WORK.id) == []


async def test_flows_that_are_open_at_the_end_are_in_the_log_with_their_bytes():
    """As a sandbox is stopped: each begin has its end."""
    async with network() as (talk, book, flows):
        await talk.ask(1)
        await talk.send(m.FlowBegun(3, 1, "192.0.2.1"))
        await talk.send(m.FlowsMoved([(3, 10, 20)]))
        assert (await talk.ask(2)).allowed
        await talk.stream.aclose()
        await eventually(lambda: book.events("stream.closed"))
        (closed,) = book.events("stream.closed")
        assert (closed["bytes_from_sandbox"], closed["bytes_to_sandbox"]) == (10, 20)
        assert closed["reason"] == "the sandbox's network was shut down"
        assert flows.rows(WORK.id) == []


async def test_a_filter_is_told_what_the_record_allows():
    """Before its first answer, and again when the record changes."""
    async with network() as (talk, book, flows):
        book.write_record("work", f'{RECORD}[network]\nflows = 7\nsend_rate = "1M"\n')
        await book.reload()
        flows.follow_records()
        told = await talk.hear()
        assert (told.flows, told.new_flows, told.send_rate) == (7, 100, 1 << 20)
        assert (told.receive_rate, told.encrypted_hello) == (None, True)
        flows.follow_records()
        book.write_record("work", f'{RECORD}[network]\nech = "deny"\n')
        await book.reload()
        flows.follow_records()
        assert not (await talk.hear()).encrypted_hello


async def test_a_filter_that_does_not_read_delays_no_other():
    """Each is told its limits by a separate task."""
    async with network() as (_, book, flows), trio.open_nursery() as nursery:
        book.write_record("vault", RECORD)
        await book.reload()
        deaf, full = socket.socketpair()
        full.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                full.send(bytes(65536))
        mine, theirs = socket.socketpair()
        later = Filter(mine)
        with deaf:
            async with later.stream:
                for lease, conn in ((VAULT, full), (lease_of("work", 3), theirs)):
                    opening = Opening(lease, NETWORK, 1, "the test")
                    await nursery.start(partial(flows.carry, opening, conn))
                for name in ("vault", "work"):
                    book.write_record(name, f"{RECORD}[network]\nflows = 7\n")
                await book.reload()
                flows.follow_records()
                assert (await later.hear()).flows == 7


async def test_a_yes_that_was_given_up_unsent_is_a_no():
    """The end of a yes that it never had would leave its packets without an answer."""
    async with network() as (_, book, flows), trio.open_nursery() as nursery:
        deaf, full = socket.socketpair()
        full.setblocking(False)
        filled = 0
        with suppress(BlockingIOError):
            while True:
                filled += full.send(bytes(65536))
        talk, lease = Filter(deaf), lease_of("work", 3)
        async with talk.stream:
            opening = Opening(lease, NETWORK, 1, "the test")
            await nursery.start(partial(flows.carry, opening, full))
            await talk.send(m.AskFlow(1, "www.test", "tcp", 443))
            await eventually(flows._filters[lease.id]._sending.locked)
            await book.change("50-test.policy", "")
            await trio.testing.wait_all_tasks_blocked()
            while filled:
                filled -= len(await talk.stream.receive_some(filled))
            assert await talk.hear() == m.FlowAnswer(1, allowed=False)


async def test_a_report_of_bytes_makes_a_rate():
    async with network() as (talk, _, flows):
        await talk.ask(1)
        await talk.send(m.FlowBegun(3, 1, "192.0.2.1"), m.FlowsMoved([(3, 500, 2000)]))
        await talk.ask(4)
        (row,) = flows.rows(WORK.id)
        assert (row.sent, row.received) == (500, 2000)
        assert row.rates == (500 / limits.REPORT_SECONDS, 2000 / limits.REPORT_SECONDS)
        traffic = flows.traffic(WORK.id)
        assert traffic.flows == 1
        assert row.rates_at(row.reported + 2.1 * limits.REPORT_SECONDS) == (0, 0)
        # Fewer than before, and of a flow that is not open: not taken.
        await talk.send(m.FlowsMoved([(3, 400, 9000), (7, 1, 1)]))
        await talk.ask(5)
        assert (row.sent, row.received) == (500, 2000)


async def test_a_report_of_too_many_flows_ends_the_filter():
    async with network() as (talk, *_):
        await talk.send(m.FlowsMoved([(1, 0, 0)] * (m.MOVED + 1)))
        assert await talk.hear() is None


async def test_the_user_is_asked_about_the_flow_and_not_about_its_name():
    rules = "vitrail.Network +www.test work @net ask\n"
    async with network(rules) as (talk, book, _):
        book.person.says = yes()
        assert await talk.ask(1, protocol="dns", port=None) == m.FlowAnswer(
            1, allowed=True
        )
        assert book.person.asked == []
        assert await talk.ask(2) == m.FlowAnswer(2, allowed=True)
        (question,) = book.person.asked
        assert question.targets == ("@net",)
        assert ("port", "443") in question.details


async def test_a_permission_that_is_given_back_ends():
    async with network() as (talk, book, _):
        await talk.ask(1)
        await talk.send(m.FlowRelease(1))
        await talk.ask(2)
        await book.change("50-test.policy", "")
        assert (await talk.hear()).number == 2


@pytest.mark.parametrize(
    "asked",
    [
        m.AskFlow(1, "WWW.test", "tcp", 443),
        m.AskFlow(1, "a b", "tcp", 443),
        m.AskFlow(1, "www.test", "sctp", 443),
        m.AskFlow(1, "www.test", "tcp", None),
        m.AskFlow(1, "www.test", "tcp", 0),
        m.AskFlow(1, "www.test", "dns", 53),
        m.AskFlow(0, "www.test", "tcp", 443),
    ],
)
async def test_what_is_not_a_destination_ends_the_filter(asked):
    async with network() as (talk, *_):
        await talk.send(asked)
        assert await talk.hear() is None


@pytest.mark.slow
async def test_permits_are_bounded():
    async with network() as (talk, *_):
        most = 2 * limits.DESTINATIONS
        for number in range(1, most + 1):
            answer = await talk.ask(number, f"a{number}.test", "dns", None)
            if answer is None:
                pytest.fail(f"ended at {number}")
        await talk.send(m.AskFlow(most + 1, "more.test", "dns", None))
        assert await talk.hear() is None


@pytest.mark.slow
async def test_flows_are_bounded():
    async with network() as (talk, *_):
        await talk.ask(1)
        for number in range(2, limits.FLOWS + limits.WAITING + 4):
            with suppress(trio.BrokenResourceError):
                await talk.send(m.FlowBegun(number, 1, "192.0.2.1"))
        assert await talk.hear() is None


async def test_beyond_its_share_nothing_begins_and_flows_are_counted(monkeypatch):
    async with network() as (talk, book, _):
        await talk.ask(1)

        def used_up(lease):
            raise RefusedError("the share of the log is used up")

        monkeypatch.setattr(book.log, "check_share", used_up)
        await talk.send(m.FlowBegun(2, 1, "192.0.2.1"))
        assert await talk.ask(3, "other.test") == m.FlowAnswer(3, allowed=False)
        monkeypatch.undo()
        await talk.send(m.FlowBegun(4, 1, "192.0.2.1"))
        await talk.ask(5)
        (opened,) = book.events("stream.opened")
        assert opened["detail"]["uncounted"] == 1
