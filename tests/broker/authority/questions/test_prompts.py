"""A dialog that is an ordinary window is brought to the front when the user wants it."""

from __future__ import annotations

from types import SimpleNamespace

import trio

from broker.authority.questions.prompts import Questions
from broker.core import limits
from broker.ipc import prompt as m
from tests.kit.helper_starter import ended_starter


async def test_a_viewer_that_wants_it_in_front_all_the_time_gets_it_now_and_then(
    autojump_clock,
):
    questions = Questions(
        paths=None,
        log=None,
        compositor=lambda: None,
        starter=ended_starter(),
        screen_reader=False,
    )
    told = []

    async def tell(message):
        told.append(message)

    questions._agent = SimpleNamespace(shown=1, tell=tell)
    for _ in range(10):
        questions.raise_dialog("token")
        await questions._bring_to_front()
    assert told == [m.RaiseQuestion("token")]
    await trio.sleep(limits.PROMPT_RAISES_SECONDS)
    questions.raise_dialog("")
    await questions._bring_to_front()
    assert told[1:] == [m.RaiseQuestion("")]
    questions._agent.shown = 0
    await trio.sleep(limits.PROMPT_RAISES_SECONDS)
    questions.raise_dialog("")
    await questions._bring_to_front()
    assert len(told) == 2, "no question is on the screen"
