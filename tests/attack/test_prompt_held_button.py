"""A question that comes while a button is held elsewhere: the next click is not a yes.

Meanwhile the compositor sends the pointer's events to the window below alone, and
the dialog, which has the keyboard, seems to rest.  A sandbox that makes its user press and
hold, and then click, would be answered yes.
"""

from __future__ import annotations

import trio

from broker.core import limits
from broker.core.question import PersonAnswer
from broker.helpers.prompt.dialog import lay_out
from broker.ipc import prompt as m
from tests.kit.prompting import agent, hands, question
from tests.kit.wayland.client import Window

ASKED = question()
GUARD = limits.PROMPT_GUARD_SECONDS


def _below(display) -> Window:
    """A window of another program; the compositor makes it large."""
    client = Window(display)
    client.start()
    client.show(800, 600, 0xFF0000FF)
    client.roundtrip()
    return client


async def test_a_click_after_a_button_that_was_held_elsewhere_is_not_an_answer():
    async with hands() as h, agent(h.comp.environment) as a:
        assert await a.hear() == m.PromptHello(layer=True)
        below = await trio.to_thread.run_sync(_below, h.comp.display)
        try:
            x, y = h.place(ASKED, lay_out(ASKED).deny)
            h.pointer.move(x, y)
            h.pointer.button(True)
            await a.show(ASKED)
            for step in range(10):
                h.pointer.move(x + step, y)
                assert await a.hears_nothing(2 * GUARD / 10)
            h.pointer.button(False)
            h.move(ASKED, lay_out(ASKED).allow)
            assert await a.hears_nothing(0.3)  # the dialog's pointer image comes
            h.click(ASKED, lay_out(ASKED).allow)
            assert await a.hears_nothing(0.5)
            # The pointer is on the dialog, and the hand rests.
            await h.awaits_dialog()
            h.click(ASKED, lay_out(ASKED).allow)
            assert await a.hear() == m.PromptAnswer(
                1, PersonAnswer(allow=True, target="dom0", by="person")
            )
        finally:
            below.close()
