"""Input that waited in a queue while a process hung is read late, and was not late.

For a second a dialog takes no answer, because a hand may still act for another window.
A process that hangs (swap, a slow frame, a debugger) reads such a hand's input after
that second, all at once.
"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from broker.core import limits
from broker.core.question import PersonAnswer
from broker.helpers.prompt.dialog import lay_out
from broker.helpers.prompt.paint import _INK
from broker.ipc import prompt as m
from tests.kit.eventually import eventually
from tests.kit.prompting import KEYS, agent, hands, question
from tests.kit.wayland.compositor import pixels
from tests.kit.wayland.input import LEFT

ASKED = question()
LAYOUT = lay_out(ASKED)
GUARD = limits.PROMPT_GUARD_SECONDS


@contextmanager
def hanging(child):
    """A process that does nothing meanwhile."""
    state = Path(f"/proc/{child.pid}/stat")
    child.kill(signal.SIGSTOP)
    try:
        while state.read_text().rpartition(")")[2].split()[0] != "T":
            pass
        yield
    finally:
        child.kill(signal.SIGCONT)


async def _says_too_early(h):
    """Whether the dialog answers a press that came too early: its hint is dark."""
    x, y = h.place(ASKED, LAYOUT.hint)
    half = LAYOUT.hint.width // 2
    row = (await pixels(h.comp)).crop((x - half, y - 10, x + half, y + 10))
    return _INK in {colour for _, colour in row.getcolors(1 << 16)}


async def _is_still_answered(h, a, number):
    await h.awaits_dialog()
    h.press("Escape")
    assert await a.hear() == m.PromptAnswer(
        number, PersonAnswer(allow=False, by="person", reason="the user pressed Escape")
    )


@pytest.mark.parametrize("hangs", ["agent", "compositor"])
async def test_a_key_of_before_is_no_answer(hangs):
    async with hands() as h, agent(h.comp.environment) as a:
        assert await a.hear() == m.PromptHello(layer=True)
        child = a.child if hangs == "agent" else h.comp.child
        for number in range(1, 20):
            asked_at = trio.current_time()
            await a.show(ASKED, number)
            with hanging(child):
                early = trio.current_time() < asked_at + GUARD
                for state in (1, 0):
                    h.keyboard.change(KEYS["Escape"], state)
                await trio.sleep(GUARD + 0.3)
            if early:
                break
        assert early, "the machine is too slow to be early"
        assert await a.hears_nothing(0.5)
        await _is_still_answered(h, a, number)


async def test_a_click_of_before_is_no_answer():
    async with hands() as h, agent(h.comp.environment) as a:
        assert await a.hear() == m.PromptHello(layer=True)
        h.move(ASKED, LAYOUT.allow)
        for number in range(1, 20):
            await a.show(ASKED, number)
            h.click(ASKED, LAYOUT.allow)
            await eventually(lambda: _says_too_early(h))
            # The pointer is the dialog's now: the last press before is of this time.
            pressed_at = trio.current_time()
            h.click(ASKED, LAYOUT.allow)
            with hanging(a.child):
                early = trio.current_time() < pressed_at + GUARD
                h.pointer.button(True, LEFT)
                h.pointer.button(False, LEFT)
                await trio.sleep(GUARD + 0.3)
            if early:
                break
        assert early, "the machine is too slow to be early"
        assert await a.hears_nothing(0.5)
        await _is_still_answered(h, a, number)
