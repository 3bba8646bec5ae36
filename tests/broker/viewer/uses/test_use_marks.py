"""The banner above all windows follows what sandboxes use."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.ipc.session.media_orders import BannerRow
from broker.viewer.uses.use_marks import UseMarks
from broker.viewer.uses.use_signs import CAMERA, MICROPHONE
from tests.broker.viewer.notifications.test_notification_service import Server


class Frames:
    """The frames of a sandbox."""

    colour = "#102030"

    def __init__(self):
        self.uses = ()

    def mark(self, *, asks, uses):
        assert asks is None
        former, self.uses = self.uses, uses
        return former != uses


class Session:
    """Shows banners; ``reply`` is what the program says, "" that it has failed."""

    def __init__(self):
        self.reply, self.shown, self.log = b"1", [], []
        self.ended = trio.Event()

    @asynccontextmanager
    async def carrying_out(self, _row, order):
        if self.reply is None:
            raise UpstreamError("the session child has ended")
        near, far = socket.socketpair()
        with far:
            far.send(self.reply)
        near.setblocking(False)
        self.shown.append(order.rows)
        self.log.append(len(self.shown))
        try:
            process = SimpleNamespace(wait=self.ended.wait)
            yield SimpleNamespace(fds=[near.detach()], process=process)
        finally:
            self.shown.remove(order.rows)


@pytest.fixture
async def it(nursery):
    session = Session()
    guests = [
        SimpleNamespace(
            lease=SimpleNamespace(sandbox=name),
            frames=Frames(),
            follow_frames=trio.sleep_forever,
        )
        for name in ("work", "mail")
    ]
    marks = UseMarks(lambda: guests, None, session)
    marks.signs._server = Server()
    nursery.start_soon(marks.run)
    await trio.testing.wait_all_tasks_blocked()
    return SimpleNamespace(marks=marks, session=session, guests=guests)


WORK = BannerRow("102030", "work", ("microphone",))
BOTH = BannerRow("102030", "work", ("microphone", "camera"))


async def test_banner_lasts_as_long_as_the_use(autojump_clock, it):
    signs, session = it.marks.signs, it.session
    signs.show(MICROPHONE, "work", active=True)
    await trio.sleep(2)
    assert session.shown == [(WORK,)]
    assert [guest.frames.uses for guest in it.guests] == [("microphone",), ()]
    signs.show(CAMERA, "work", active=True)
    await trio.sleep(2)
    assert session.shown == [(BOTH,)]
    assert session.log == [1, 2], "the next is drawn before the former goes"
    for kind in (MICROPHONE, CAMERA):
        signs.show(kind, "work", active=False)
    await trio.sleep(5)
    assert session.shown == []
    assert not it.guests[0].frames.uses


async def test_banner_that_ends_is_shown_again(autojump_clock, it):
    """The program was killed, or a screen was plugged in."""
    it.marks.signs.show(MICROPHONE, "work", active=True)
    await trio.sleep(2)
    for _ in range(3):
        ended, it.session.ended = it.session.ended, trio.Event()
        ended.set()
        await trio.sleep(2)
        assert it.session.shown == [(WORK,)]


@pytest.mark.parametrize("reply", [b"", None])
async def test_banner_that_fails_is_tried_again(autojump_clock, it, reply, capsys):
    it.session.reply = reply
    it.marks.signs.show(MICROPHONE, "work", active=True)
    await trio.sleep(30)
    assert it.session.shown == []
    assert capsys.readouterr().err.count("no banner shows") == 1
    it.session.reply = b"1"
    await trio.sleep(12)
    assert it.session.shown == [(WORK,)]


async def test_compositor_without_layers_is_asked_once_for_each_change(
    autojump_clock, it
):
    it.session.reply = b"0"
    it.marks.signs.show(MICROPHONE, "work", active=True)
    await trio.sleep(60)
    assert it.session.log == [1]
    assert it.guests[0].frames.uses == ("microphone",)
    it.marks.signs.show(MICROPHONE, "work", active=False)
    await trio.sleep(60)
    assert it.session.shown == []


async def test_quick_changes_start_few_programs(autojump_clock, it):
    """Attack: a sandbox uses the security key again and again."""
    for number in range(100):
        it.marks.signs.show(CAMERA, "work", active=True)
        it.marks.signs.show(MICROPHONE, "mail", active=bool(number % 2))
        await trio.sleep(0.05)
    assert len(it.session.log) < 8
