"""Notifications on the viewer's side: decided, recorded, shown, answered, ended.

With real rules and a real log; the desktop's server and the worker are the test.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from broker.authority.permit import Request
from broker.core.errors import PeerError, RefusedError, UpstreamError
from broker.core.limits import notifications as limits
from broker.core.services import NOTIFICATION
from broker.ipc import transfer as m
from broker.ipc.guest.daemons import (
    DaemonClose,
    DaemonShow,
    HideIcon,
    NotificationAction,
    NotificationClosed,
)
from broker.net.caller_paces import CallPaces
from broker.viewer.calls.places import take_asks
from broker.viewer.exchange.failures import ShareableError
from broker.viewer.exchange.guest_connection import GuestConnection
from broker.viewer.notifications.desktop_server import ServerTold
from broker.viewer.notifications.notification_service import NotificationService
from tests.kit.rulebook import WORK, rulebook

RULES = """\
vitrail.Notification +         work @adminvm allow
vitrail.Notification +critical work @adminvm allow
"""
RECORD = 'class = "persistent"\nlabel.colour = "red"\nlaunch.kind = "bwrap"\n'


class Server:
    """The desktop's notification server, and the order of its calls."""

    def __init__(self):
        self.shown = {}
        self.changes = 0
        self.changed = trio.Event()

    def show(self, number, bubble):
        self.shown[number] = bubble
        self._change()

    def close(self, number):
        self.shown.pop(number, None)
        self._change()

    def _change(self):
        self.changes += 1
        self.changed.set()
        self.changed = trio.Event()

    async def run(self):
        await trio.sleep_forever()

    async def until(self, titles):
        while sorted(one.title for one in self.shown.values()) != sorted(titles):
            await self.changed.wait()

    def number(self, title):
        return next(n for n, one in self.shown.items() if one.title == title)


class Daemon:
    """One connection of the sandbox's daemon, as its worker reports of it."""

    def __init__(self, guest, stream):
        opening = SimpleNamespace(stream=stream)
        self.exchange = GuestConnection(guest, opening, call=True)
        self.more = trio.Event()
        self.more.set()
        self.asks = []
        self.asked = trio.Event()
        self.error = None

    def ask(self, number=1, summary="s", **more):
        self.say(DaemonShow(number, summary, **more))

    def close(self, number):
        self.say(DaemonClose(number))

    def say(self, ask):
        self.asks.append(ask)
        self.asked.set()

    def end(self):
        self.exchange.close(m.TransferClosed(self.exchange.stream, 10, 20, "done"))

    async def run(self):
        """Say the next one when the broker asks for it."""
        while True:
            await self.more.wait()
            while not self.asks:
                self.asked = trio.Event()
                await self.asked.wait()
            self.more = trio.Event()
            ask = m.StreamSaid(self.exchange.stream, self.asks.pop(0))
            self.exchange.take(ask)


class Stand:
    def __init__(self, book, nursery):
        self.book = book
        self.service = NotificationService(decider=book.decider, log=book.log, bus=None)
        self.server = self.service._server = Server()
        self.nursery = nursery
        self.answers = []
        self.daemons = {}
        self.answered = trio.Event()
        self.raised = []
        self.service.raise_window = lambda *words: self.raised.append(words)
        record = SimpleNamespace(
            viewer=SimpleNamespace(label=SimpleNamespace(colour="#102030"))
        )
        self.guest = SimpleNamespace(
            lease=WORK,
            order=self.order,
            valid_record=lambda: record,
        )

    async def order(self, message, fds=()):
        await trio.lowlevel.checkpoint()
        if isinstance(message, m.DaemonMore):
            self.daemons[message.stream].more.set()
        if isinstance(message, m.StreamTell):
            self.answers.append((message.stream, message.message))
            self.answered.set()
            self.answered = trio.Event()

    async def heard(self, count):
        while len(self.answers) < count:
            await self.answered.wait()
        return self.answers

    async def connect(self, stream=1):
        daemon = self.daemons[stream] = Daemon(self.guest, stream)
        request = Request(
            lease=WORK, service=NOTIFICATION, stream=stream, counts_bytes=False
        )

        async def serve():
            with daemon.exchange.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(daemon.run)
                    try:
                        await self.service.serve(daemon.exchange, request)
                    except* ShareableError as error:
                        daemon.error = error
                    nursery.cancel_scope.cancel()

        self.nursery.start_soon(serve)
        await trio.testing.wait_all_tasks_blocked(0.01)
        return daemon

    def press(self, title, key="", **more):
        number = self.server.number(title)
        self.service._told(ServerTold(number, key, **more))


@asynccontextmanager
async def stand(rules=RULES):
    async with rulebook(rules, work=RECORD) as book:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                made = Stand(book, nursery)
                nursery.start_soon(made.service.run)
                yield made
                nursery.cancel_scope.cancel()


async def test_a_notification_is_recorded_shown_and_answered():
    async with stand() as it:
        daemon = await it.connect()
        actions = [("default", "x"), ("reply", "Answer")]
        daemon.ask(7, "mail", body="<b>", actions=actions, urgency=2)
        await it.server.until(["work: mail"])
        (bubble,) = it.server.shown.values()
        assert bubble.buttons == (("default", "Show work"), ("1", "Answer"))
        assert (bubble.body, bubble.urgency, bubble.colour) == (
            "&lt;b&gt;",
            2,
            0x102030,
        )
        (event,) = it.book.events("notification.shown")
        assert (event["size"], event["buttons"], event["urgency"]) == (7, 2, 2)
        it.press("work: mail", "1")
        assert await it.heard(1) == [(1, NotificationAction(7, "reply"))]
        it.press("work: mail", reason=2)
        assert (await it.heard(2))[1] == (1, NotificationClosed(7, 2))
        (past,) = it.service.board.history()
        assert past.outcome == "answered"


async def test_a_click_raises_a_window_of_the_sandbox_and_tells_what_it_offered():
    async with stand() as it:
        daemon = await it.connect()
        daemon.ask(1, "plain")
        daemon.ask(2, "offers", actions=[("default", "x")])
        await it.server.until(["work: plain", "work: offers"])
        it.press("work: plain", "default", token="t")
        it.press("work: offers", "default", token="u")
        assert it.raised == [(WORK.id, "t"), (WORK.id, "u")]
        # A program that offered no click does not learn of it.
        assert await it.heard(1) == [(1, NotificationAction(2, "default"))]


@pytest.mark.parametrize("key", ["4", "-1", "x", "１", "", "00", "9" * 5000])
async def test_a_key_that_was_not_offered_answers_nothing(key):
    async with stand() as it:
        daemon = await it.connect()
        daemon.ask(1, "s", actions=[("a", "A")])
        await it.server.until(["work: s"])
        if key:
            it.press("work: s", key)
        it.press("work: s", "0")
        assert await it.heard(1) == [(1, NotificationAction(1, "a"))]


async def test_an_answer_that_comes_late_goes_nowhere():
    async with stand() as it:
        daemon = await it.connect()
        daemon.ask(1, "s")
        await it.server.until(["work: s"])
        number = it.server.number("work: s")
        daemon.close(1)
        assert await it.heard(1) == [(1, NotificationClosed(1, 3))]
        it.service._told(ServerTold(number, "default"))
        it.service._told(ServerTold(number, reason=1))
        assert it.raised == []
        daemon.ask(2, "t")
        await it.server.until(["work: t"])
        assert len(it.answers) == 1


async def test_notifications_end_with_their_connection():
    async with stand() as it:
        first, second = await it.connect(1), await it.connect(2)
        first.ask(1, "a")
        second.ask(1, "b")
        await it.server.until(["work: a", "work: b"])
        first.end()
        await it.server.until(["work: b"])
        second.close(1)
        await it.server.until([])


async def test_an_icon_on_a_call_about_notifications_ends_it():
    async with stand() as it:
        daemon = await it.connect()
        daemon.ask(1, "s")
        await it.server.until(["work: s"])
        daemon.say(HideIcon(1))
        await it.server.until([])
        assert daemon.error is not None


async def test_what_cannot_be_recorded_is_not_seen(monkeypatch):
    async with stand() as it:
        daemon = await it.connect()

        async def full(event):
            raise UpstreamError("the disk is full")

        monkeypatch.setattr(it.book.log, "require", full)
        daemon.ask(1, "s")
        assert await it.heard(1) == [(1, NotificationClosed(1, 4))]
        assert it.server.changes == 1
        assert it.server.shown == {}


async def test_a_sandbox_without_a_share_of_the_log_shows_nothing(monkeypatch):
    async with stand() as it:
        daemon = await it.connect()

        def used_up(lease):
            raise RefusedError("its share is used up")

        monkeypatch.setattr(it.book.log, "check_share", used_up)
        daemon.ask(1, "s")
        assert await it.heard(1) == [(1, NotificationClosed(1, 4))]
        assert it.server.shown == {}


async def test_a_flood_changes_one_notification_slowly(autojump_clock):
    """The log has threads, which this clock would not wait for: there is none here."""
    service = NotificationService(decider=None, log=None, bus=None)
    server = service._server = Server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service._count)
        for number in range(1, 51 + limits.SHOWN_PER_SANDBOX):
            ask = DaemonShow(number, "s")
            if service.board.admit(WORK, 1, ask, trio.current_time(), 0.0) is None:
                service._grouped.add("work")
                service._grouping.set()
            await trio.sleep(0.1)
        await trio.sleep(limits.GROUP_SECONDS)
        assert server.changes <= trio.current_time() / limits.GROUP_SECONDS + 1
        (bubble,) = server.shown.values()
        assert bubble.title == "work: 50 more notifications"
        # Dismissed by the user, it counts from one again.
        service._told(ServerTold(server.number(bubble.title), reason=2))
        assert service.board.group("work")[1] == 0
        nursery.cancel_scope.cancel()


async def test_a_rule_that_goes_makes_it_normal():
    async with stand() as it:
        daemon = await it.connect()
        await it.book.change("50-test.policy", RULES.splitlines()[0] + "\n")
        daemon.ask(1, "s", urgency=2)
        await it.server.until(["work: s"])
        (bubble,) = it.server.shown.values()
        assert bubble.urgency == 1


async def test_a_worker_that_does_not_wait_its_turn_says_what_cannot_be():
    async with stand() as it:
        daemon = await it.connect()
        daemon.exchange.take(m.StreamSaid(1, DaemonShow(1, "s")))
        with pytest.raises(PeerError):
            daemon.exchange.take(m.StreamSaid(1, DaemonShow(2, "s")))


async def test_a_connection_that_ends_while_it_waits_has_counted_nothing(
    autojump_clock,
):
    """Otherwise connections that come and go hold up all sandboxes of their record."""
    paces = CallPaces(1, 1)
    await paces.wait("work")
    for _ in range(1000):
        with trio.move_on_after(0.0001):
            await paces.wait("work")
    before = trio.current_time()
    await paces.wait("work")
    assert trio.current_time() - before <= 1


async def test_a_flood_of_a_daemon_waits_in_its_sender(autojump_clock):
    """Nothing is recorded here: the log has threads, for which this clock does not wait."""
    paces = CallPaces(limits.MESSAGES_PER_SECOND, limits.MESSAGES_BURST)

    async def order(message):
        await trio.lowlevel.checkpoint()
        if isinstance(message, m.DaemonMore):
            daemon.more.set()

    async def take(ask):
        await trio.lowlevel.checkpoint()
        taken.append(ask)
        if len(taken) == limits.MESSAGES_BURST + 100:
            nursery.cancel_scope.cancel()

    daemon, taken = Daemon(SimpleNamespace(lease=WORK, order=order), 1), []
    for number in range(limits.MESSAGES_BURST + 100):
        daemon.ask(number + 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.run)
        await take_asks(daemon.exchange, paces, take)
    assert trio.current_time() >= 100 / limits.MESSAGES_PER_SECOND - 1
