"""Attack: a sandbox changes what a key of ``brokerctl top`` means while it is pressed.

It takes its question back when the person is about to answer, and another one is the
oldest; or it ends, and another sandbox is under the cursor.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest

pytest.importorskip("textual")

from broker.cli.homes.snapshot import (
    Cpu,
    ListedWindow,
    Snapshot,
    SnapshotRow,
    WaitingQuestion,
)
from broker.cli.sandboxes import top_screen
from broker.core import limits
from broker.core.errors import UpstreamError
from broker.core.paths import find_paths
from broker.ipc.control.api import QuestionAnswerRequest, WindowCloseRequest

HARMLESS = WaitingQuestion(7, "evil: to open https://example.org")
HARMFUL = WaitingQuestion(8, "evil: to hear the microphone")


def row(name):
    window = ListedWindow(1, "a letter", focused=False)
    return SnapshotRow(name, name, "#ff0000", 1.0, 0.0, 0, 0, (), (window,), None)


class Broker:
    """The broker's answers, and the requests to it."""

    def __init__(self):
        self.state = Snapshot((), (), ())
        self.now = 100.0
        self.asked = []

    @contextmanager
    def open(self, _paths):
        yield self

    def call(self, _method, request):
        self.asked.append(request)


@pytest.fixture(name="broker")
def _broker(monkeypatch):
    broker = Broker()
    monkeypatch.setattr(top_screen, "open_blocking", broker.open)
    monkeypatch.setattr(top_screen, "take", lambda *_: broker.state)
    # Looks are the test's own.
    monkeypatch.setattr(top_screen, "_EVERY", 3600.0)
    return broker


def play(broker, *steps):
    """Each step is a snapshot that is drawn, a pause in seconds, or a key."""

    async def run():
        screen = top_screen.TopScreen(find_paths(), Cpu(), lambda: broker.now)
        broker.state = steps[0]
        async with screen.run_test() as person:
            await screen.workers.wait_for_complete()
            for step in steps:
                if isinstance(step, Snapshot):
                    broker.state = step
                    screen.look()
                    await screen.workers.wait_for_complete()
                elif isinstance(step, float):
                    broker.now += step
                else:
                    await person.press(step)
                    await screen.workers.wait_for_complete()
                await person.pause()

    asyncio.run(run())
    return broker.asked


SEEN = limits.PROMPT_GUARD_SECONDS
FIRST = Snapshot((row("evil"), row("work")), (HARMLESS, HARMFUL), ())
SWAPPED = Snapshot((row("evil"), row("work")), (HARMFUL,), ())
ENDED = Snapshot((row("work"),), (), ())


def test_a_question_that_was_swapped_is_not_answered(broker):
    assert play(broker, FIRST, 10.0, SWAPPED, 0.1, "a") == []


def test_a_question_that_has_just_come_is_not_answered(broker):
    assert play(broker, Snapshot((), (), ()), 10.0, SWAPPED, 0.1, "a") == []


def test_a_key_that_is_held_down_does_not_answer(broker):
    keys = ["a", SEEN / 2] * 6
    assert play(broker, FIRST, 10.0, SWAPPED, *keys) == []


def test_a_question_that_was_read_is_answered(broker):
    allowed = [QuestionAnswerRequest(id=8, allow=True)]
    assert play(broker, FIRST, 10.0, SWAPPED, 0.1, "a", SEEN, "a") == allowed


def test_a_look_that_changes_nothing_delays_no_answer(broker):
    allowed = [QuestionAnswerRequest(id=7, allow=True)]
    assert play(broker, FIRST, SEEN, FIRST, "a") == allowed


def test_a_sandbox_that_ends_gives_its_keys_to_no_other(broker):
    assert play(broker, FIRST, 10.0, ENDED, 0.1, "k") == []


def test_a_sandbox_that_the_person_chose_has_its_keys_at_once(broker):
    closed = [WindowCloseRequest(sandbox="work", window=1)]
    assert play(broker, FIRST, 10.0, "down", "k") == closed


def test_the_selection_stays_with_its_sandbox(broker):
    more = Snapshot((row("another"), row("evil"), row("work")), (), ())
    closed = [WindowCloseRequest(sandbox="evil", window=1)]
    assert play(broker, FIRST, 10.0, more, "k") == closed


def test_an_error_of_the_screen_drives_no_terminal(broker, monkeypatch):
    """It may repeat the words of a sandbox, or be those of an impostor's broker."""
    said = []

    def refuse(*_):
        raise UpstreamError("\x1b]0;owned\x07")

    monkeypatch.setattr(broker, "call", refuse)
    monkeypatch.setattr(
        top_screen.TopScreen, "notify", lambda _, text, **_how: said.append(text)
    )
    play(broker, FIRST, 10.0, "down", "k")
    # A look that fails ends the screen; the error is printed after it.
    screen = top_screen.TopScreen(find_paths(), Cpu())
    monkeypatch.setattr(top_screen, "take", refuse)
    monkeypatch.setattr(
        screen, "call_from_thread", lambda _, *words: said.append(str(words[-1]))
    )
    screen._take()
    assert said == ["\\x1b]0;owned\\x07", "error: \\x1b]0;owned\\x07"]
