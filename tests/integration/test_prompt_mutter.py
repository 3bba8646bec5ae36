"""The dialog on GNOME's compositor, which has no layer-shell: an ordinary window."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from unittest.mock import patch

import trio

from broker.authority.questions import prompts
from broker.authority.questions.prompts import Questions
from broker.core import limits
from broker.core.paths import find_paths
from broker.core.question import PersonAnswer
from broker.ipc import prompt as m
from broker.ipc.authority import QuestionWaits
from tests.kit.helper_starter import helper_starter
from tests.kit.link.roles import journal
from tests.kit.needs import requires
from tests.kit.prompting import KEYS, WORD, agent, question
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import short_directory
from tests.kit.wayland.mutter_person import GnomeKeyboard, gnome

pytestmark = requires("mutter", "dbus-run-session", "bwrap")
ASKED = question()
YES = PersonAnswer(allow=True, target="dom0", by="person")


@asynccontextmanager
async def at_gnome():
    """mutter, a person's keyboard there, and an agent that is connected."""
    async with gnome() as there:
        keys = await GnomeKeyboard.of(there.bus)
        with keys:
            keys.press(
                KEYS["BackSpace"]
            )  # a seat has a keyboard once a key was pressed
            async with agent(there.environment) as a:
                assert await a.hear() == m.PromptHello(layer=False)
                yield there, keys, a


async def typed(keys, hear):
    """Type the word until the dialog takes it; return what is heard then.

    It takes keys a second after the screen has shown its picture, and no one else knows
    when that was: keys that came earlier are typed again, without what is left of them.
    """
    while True:
        await trio.sleep(limits.PROMPT_GUARD_SECONDS + 0.2)
        for name in (*["BackSpace"] * 8, *WORD):
            keys.press(KEYS[name])
        with trio.move_on_after(5):
            return await hear()


async def allows(keys, a):
    return await typed(keys, a.hear)


async def test_it_says_when_another_window_covers_it_and_comes_back():
    """A window that opens takes its place; raised, it takes an answer after its second."""
    async with at_gnome() as (there, keys, a):
        await a.show(ASKED)
        with Window(there.display).start() as other:
            await trio.to_thread.run_sync(other.show, 1280, 800, 0xFF00FF00)
            assert await a.hear() == m.Covered(1, covered=True)
            await a.tell(m.RaiseQuestion(""))
            said = {await a.hear(), await a.hear()}
            assert said == {m.Shown(1), m.Covered(1, covered=False)}
            # Keys that were meant for the other window, as the dialog came.
            for letter in "allow":
                keys.press(KEYS[letter])
            assert await a.hears_nothing(0.6)
            assert await allows(keys, a) == m.PromptAnswer(1, YES)


async def test_a_token_that_the_compositor_does_not_take_is_not_the_end_of_it():
    async with at_gnome() as (there, keys, a):
        await a.show(ASKED)
        with Window(there.display).start() as other:
            await trio.to_thread.run_sync(other.show, 1280, 800, 0xFF00FF00)
            assert await a.hear() == m.Covered(1, covered=True)
            await a.tell(m.RaiseQuestion("no token of mutter's"))
            said = {await a.hear(), await a.hear()}
            assert said == {m.Shown(1), m.Covered(1, covered=False)}
            assert await allows(keys, a) == m.PromptAnswer(1, YES)


async def test_when_it_is_in_front_it_is_not_shown_again():
    async with at_gnome() as (_, keys, a):
        await a.show(ASKED)
        assert await a.hears_nothing(limits.PROMPT_COVERED_SECONDS + 0.3)
        await a.tell(m.RaiseQuestion(""))
        assert await a.hears_nothing(0.5)
        assert await allows(keys, a) == m.PromptAnswer(1, YES)


async def test_the_broker_tells_its_viewer_which_question_waits_and_whether_it_is_seen():
    """From the question to its end: in front, covered, in front again, answered."""
    async with gnome() as there:
        with await GnomeKeyboard.of(there.bus) as keys, short_directory() as path:
            keys.press(KEYS["BackSpace"])
            environ = {**os.environ, **there.environment}
            async with journal(path) as log, trio.open_nursery() as nursery:
                same_word = patch.object(prompts, "choose_yes_text", lambda _: WORD)
                with same_word, helper_starter(environ) as starts:
                    questions = Questions(
                        paths=find_paths(
                            {"XDG_RUNTIME_DIR": str(path / "run"), "HOME": str(path)}
                        ),
                        log=log,
                        compositor=lambda: there.display,
                        starter=starts,
                        screen_reader=False,
                        notify=lambda *_, **__: None,
                    )
                    told, heard = trio.open_memory_channel(100)
                    questions.waits = told.send_nowait
                    nursery.start_soon(questions.run)
                    number = questions.admit(ASKED)
                    answers = []

                    async def ask():
                        answers.append(await questions.ask(number))
                        questions.leave(number)

                    nursery.start_soon(ask)
                    words = number, ASKED.lease, "work", ASKED.words
                    assert await heard.receive() == QuestionWaits(*words)
                    with Window(there.display).start() as other:
                        behind, said = QuestionWaits(*words, covered=True), None
                        while said is None:  # one that came before the dialog is below
                            await trio.to_thread.run_sync(
                                other.show, 1280, 800, 0xFF00FF00
                            )
                            with trio.move_on_after(5):
                                said = await heard.receive()
                        assert said == behind
                        questions.raise_dialog("")
                        assert await heard.receive() == QuestionWaits(*words)
                        assert await typed(keys, heard.receive) == QuestionWaits()
                        assert answers == [YES]
                    nursery.cancel_scope.cancel()
