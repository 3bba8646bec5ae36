"""The notification about a question that waits behind other windows."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import trio

from broker.core import limits
from broker.ipc.authority import QuestionWaits
from broker.ipc.guest.daemons import DaemonShow
from broker.viewer.notifications.board import Board, bubble
from broker.viewer.notifications.desktop_server import (
    DISMISSED,
    ServerTold,
    _notify,
)
from broker.viewer.notifications.question_notice import TITLE, QuestionNotice, notice
from tests.broker.viewer.notifications.test_notification_service import Server

LEASE, OTHER = "0" * 16, "1" * 16
WORDS = "to listen to your <microphone>"
SEEN = QuestionWaits(1, LEASE, "work", WORDS)
COVERED = QuestionWaits(1, LEASE, "work", WORDS, covered=True)


@pytest.fixture
async def it(nursery):
    marks, shown = [], []
    made = QuestionNotice(None, lambda lease, asks: marks.append((lease, asks)))
    server = made._server = Server()
    made.show_dialog = shown.append
    nursery.start_soon(made.run)
    await trio.testing.wait_all_tasks_blocked()
    return SimpleNamespace(notice=made, server=server, marks=marks, shown=shown)


async def settle(it, waits=None):
    if waits is not None:
        it.notice.waits(waits)
    await trio.testing.wait_all_tasks_blocked()
    return list(it.server.shown)


async def test_a_question_in_front_has_no_notification_and_its_frames_say_it(it):
    assert await settle(it, SEEN) == []
    assert it.marks == [(LEASE, True)]
    assert await settle(it, QuestionWaits()) == []
    assert it.marks == [(LEASE, True), (LEASE, False)]


async def test_one_that_is_covered_has_one_until_it_is_in_front_again(it):
    assert await settle(it, COVERED) == [1]
    assert await settle(it, SEEN) == []
    assert it.marks == [(LEASE, True)]


@pytest.mark.parametrize(
    "after", [QuestionWaits(), QuestionWaits(2, OTHER, "web", WORDS)]
)
async def test_it_goes_with_its_question(it, after):
    assert await settle(it, COVERED) == [1]
    assert await settle(it, after) == []


async def test_the_next_question_has_its_own(it):
    await settle(it, COVERED)
    assert await settle(it, QuestionWaits(2, OTHER, "web", WORDS, covered=True)) == [2]
    assert it.marks == [(LEASE, True), (LEASE, False), (OTHER, True)]


@pytest.mark.parametrize("key", ["default", "show"])
async def test_a_press_brings_the_dialog_to_the_front_and_answers_nothing(it, key):
    await settle(it, COVERED)
    it.notice._told(ServerTold(1, key, "token"))
    assert it.shown == ["token"]


@pytest.mark.parametrize("told", [ServerTold(1, "allow"), ServerTold(7, "show")])
async def test_no_other_press_means_anything(it, told):
    await settle(it, COVERED)
    it.notice._told(told)
    assert it.shown == []


async def test_dismissed_it_comes_again_while_the_question_waits(it, autojump_clock):
    await settle(it, COVERED)
    for _ in range(2):
        it.server.close(1)  # the person, at the server
        it.notice._told(ServerTold(1, reason=DISMISSED))
        await trio.sleep(limits.PROMPT_REMIND_SECONDS - 1)
        assert not it.server.shown
        await trio.sleep(2)
        assert list(it.server.shown) == [1]


async def test_dismissed_it_stays_away_when_the_question_is_over(it, autojump_clock):
    await settle(it, COVERED)
    it.server.close(1)
    it.notice._told(ServerTold(1, reason=DISMISSED))
    await settle(it, QuestionWaits())
    await trio.sleep(2 * limits.PROMPT_REMIND_SECONDS)
    assert not it.server.shown


def sent(made):
    session = SimpleNamespace(markup=True, buttons=True)
    return _notify(made, 0, session).body


def of_a_sandbox(name, summary, body):
    """What the desktop's server gets of a sandbox that imitates ours."""
    lease = SimpleNamespace(id=LEASE, sandbox=name, record=name)
    ask = DaemonShow(
        1, summary, body=body, urgency=2, actions=(("show", "Show the question"),)
    )
    admitted = Board().admit(lease, 1, ask, 0.0, 0.0)
    return sent(bubble(admitted, ask, colour=0xD01010, critical=False))


def test_a_sandbox_cannot_send_one_that_looks_like_it():
    """Whatever it is called: title, icon, entry and urgency are not its to choose."""
    ours = sent(notice(COVERED))
    for name in ("work", "vitrail", "vitrail-waits-for-your-answer"):
        theirs = of_a_sandbox(name, TITLE, "work wants to listen")
        assert theirs[3].startswith(f"{name}: ")
        assert not re.match(r"[a-z0-9-]+: ", ours[3])
        assert (ours[2], theirs[2]) == ("security-high", "")
        assert "image-data" in theirs[6]
        assert "image-data" not in ours[6]
        assert ours[6]["desktop-entry"] == ("s", "io.vitrail.Prompt")
        assert "desktop-entry" not in theirs[6]
        assert (ours[6]["urgency"], theirs[6]["urgency"]) == (("y", 2), ("y", 1))


def test_words_of_a_question_are_no_markup():
    assert "&lt;microphone&gt;" in notice(COVERED).body
