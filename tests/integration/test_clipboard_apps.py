"""Copy and paste between sandboxes with real applications and a real compositor."""

from __future__ import annotations

import trio

from broker.clipboard.crossing import NOTHING
from broker.clipboard.words import Outcome
from tests.kit.clip_stand import DEADLINE, desk
from tests.kit.compositor import wait_window


def environment(room):
    return {**room.comp.environment, "WAYLAND_DISPLAY": str(room.path)}


async def pasted(room, *options):
    """What wl-paste finds in a sandbox's own clipboard."""
    argv = ["wl-paste", "--no-newline", *options]
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            argv, env=environment(room), capture_stdout=True, check=False
        )
    return done.stdout


async def copied(room, *words):
    """Have wl-copy make a selection; it goes on by itself when that is done."""
    with trio.fail_after(DEADLINE):
        await trio.run_process(["wl-copy", *words], env=environment(room))


async def window(it, name, title, *argv):
    """A terminal of a sandbox, in front."""
    it.rooms[name].run("foot", "-T", title, *(argv or ("sleep", "1000")))
    await wait_window(it.comp, title=title, deadline=DEADLINE)
    await it.focus(name, title)


async def test_text_crosses_by_two_chords_and_is_wiped():
    async with desk("red", "blue") as it:
        await window(it, "red", "source")
        await copied(it.rooms["red"], "over the wall")
        assert await pasted(it.rooms["red"]) == b"over the wall"
        await it.focus("red", "source")
        record = await it.copy()
        assert (record.outcome, record.size) == (Outcome.COPIED, 13), record
        await window(it, "blue", "target")
        record = await it.paste()
        assert record.outcome is Outcome.PASTED, record
        assert await pasted(it.rooms["blue"]) == b"over the wall"
        await it.focus("blue", "target")
        record = await it.paste()
        assert (record.outcome, record.reason) == (Outcome.REFUSED, NOTHING)
