"""The pointer's image is where the pointer is, and ours where that is ours."""

from __future__ import annotations

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.helpers.prompt.dialog import lay_out
from broker.ipc import prompt as m
from tests.kit.prompting import agent, question
from tests.kit.wayland.people import HOSTILE, People, people
from tests.kit.wayland.pixels import mask

YELLOW = 0xFFFF00
KINDS = ["sway", "weston", "kwin"]


def _image(p: People, size: tuple[int, int] = (300, 200)) -> int:
    """Give the pointer over the hostile window a large yellow image."""
    p.hostile.begin(HOSTILE, *size)
    p.move_in(p.hostile)

    def entered() -> list[int]:
        mine = [e for e in p.hostile.events if e[0] == p.hostile.pointer]
        return [e[3][0] for e in mine if e[2] == "enter"]

    assert p.eventually(lambda: bool(entered()), p.hostile)
    cursor = p.hostile.surface()
    serial = entered()[-1]
    p.hostile.send(p.hostile.pointer, "set_cursor", serial, cursor, 0, 0)
    p.hostile.paint(cursor, 64, 64, 0xFF000000 | YELLOW)
    p.hostile.send(cursor, "commit")
    p.hostile.roundtrip()
    assert p.eventually(lambda: bool(mask(p.it.look(), YELLOW).any()))
    return cursor


async def test_the_image_does_not_walk_away_from_the_pointer():
    """A refused set_cursor moves what we count from, not what the compositor shows."""

    def attack(p: People) -> None:
        cursor = _image(p)
        x, y = p.place(p.hostile)
        for _ in range(8):
            p.hostile.send(p.hostile.pointer, "set_cursor", 1, cursor, 63, 63)
            p.hostile.send(
                cursor, "attach", p.hostile.buffer(64, 64, 0xFF000000 | YELLOW), 60, 40
            )
            p.hostile.send(cursor, "commit")
            p.hostile.roundtrip()
        p.mouse.move(x, y + 1)
        rows, columns = mask(p.it.settled(), YELLOW).nonzero()
        side = limits.WAYLAND_CURSOR_PIXELS
        assert len(rows)
        assert rows.max() <= y + 1 + side
        assert columns.max() <= x + side

    async with people() as run:
        with trio.fail_after(60):
            await run(attack)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_pointer_given_back_leaves_no_image_on_the_frame(kind):
    def attack(p: People) -> None:
        _image(p)
        x, y = p.place(p.hostile, (0.5, 0.0))
        p.hostile.send(p.hostile.pointer, "release")
        p.hostile.roundtrip()
        p.mouse.move(x, y + 5)
        p.mouse.move(x, y - 2)
        gone = p.eventually(lambda: not mask(p.it.look(), YELLOW).any())
        assert gone, "the application's image is over its frame"

    async with people(kind) as run:
        with trio.fail_after(60):
            await run(attack)


async def test_a_prompt_under_the_pointer_has_an_image_of_its_own():
    """Else a press counts somewhere else than where the person sees the pointer."""
    drawn, shown = trio.Event(), trio.Event()

    def attack(p: People) -> bool:
        _image(p, (700, 500))
        trio.from_thread.run_sync(drawn.set)
        trio.from_thread.run(shown.wait)
        return p.eventually(lambda: not mask(p.it.look(), YELLOW).any(), p.hostile)

    gone: list[bool] = []
    async with people() as run:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def hostile() -> None:
                    gone.append(await run(attack))

                nursery.start_soon(hostile)
                await drawn.wait()
                async with agent(run.it.comp.environment) as a:
                    assert await a.hear() == m.PromptHello(layer=True)
                    await a.show(question())
                    shown.set()
                    while not gone:
                        await trio.sleep(0.05)
    assert gone == [True], "the sandbox's image is what the person sees"


def test_a_sandboxs_image_is_never_between_two_answers():
    """A tip drawn as far away as it may be is still over no other button."""
    layout = lay_out(question())
    between = layout.allow.x - (layout.deny.x + layout.deny.width)
    assert between > limits.WAYLAND_CURSOR_PIXELS
