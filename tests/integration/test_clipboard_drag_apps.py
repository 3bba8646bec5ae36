"""Text from another sandbox is dropped on applications of Qt and on browsers."""

from __future__ import annotations

import pytest
import trio

from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.messages import Outcome
from tests.integration.test_clipboard_apps import (
    APPLICATIONS,
    argv_of,
    home,
    pasted,
    window,
)
from tests.kit.clipboard.client import Guest, dragging, gives_drop, guest
from tests.kit.clipboard.stand import DEADLINE, A, C, Desk, desk
from tests.kit.wayland.apps import TOOLKITS

__all__ = ["home"]
TEXT = b"over the wall by hand"
SPOT = (1000, 600)
"""In the window's text, below a browser's bars."""


def drops(c: Guest, title: str) -> str:
    """Drag to the application's text and let go there."""
    with dragging(c, title) as drag:
        for step in range(10):
            x, y = 750 + 25 * step, 350 + 25 * step
            drag.mouse.move(x, y)
            c.roundtrip()
        drag.mouse.move(*SPOT)
        # The source is not informed that another sandbox's window accepts the drop.
        trio.from_thread.run(c.it.accepts_drag, "blue")
        return gives_drop(c, drag, TEXT)


async def text_of(it: Desk, title: str) -> w.RecordCrossing:
    """All that is in the application, by its own copy and the chord."""
    await it.focus("blue", title)
    await it.control(A)
    await it.control(C)
    await trio.sleep(0.1)  # no event says that an application has copied
    return await it.copy()


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["qt", "firefox", "chromium"])
async def test_an_application_takes_a_drop(name, home):
    title = APPLICATIONS[name][1]
    async with desk("red", "blue", drags=w.CopyTerms()) as it:
        await window(
            it,
            "blue",
            name,
            *argv_of(name, home),
            shown=title,
            HOME=str(home),
            **TOOLKITS,
        )

        async def dropped() -> bool:
            """Again where it came too early: a browser shows its window first."""
            before = len(it.records)
            end = await guest(it, "red", lambda c: drops(c, title), title="from")
            record = await it.record_after(before)
            assert (record.outcome, record.selection) == (Outcome.PASTED, "drag")
            assert end == "dnd_finished"
            for _ in range(10):
                if (await text_of(it, title)).size >= len(TEXT):
                    return True
            return False

        with trio.fail_after(3 * DEADLINE):
            while not await dropped():
                pass
        await window(it, "red", "place")
        assert (await it.paste()).outcome is Outcome.PASTED
        assert TEXT in await pasted(it.rooms["red"])
