"""The person's own selection: into a sandbox by chord, and out where a rule says so."""

from __future__ import annotations

import trio

from broker.core.clipboard.types import SECRET_HINT
from broker.ipc import clipboard as messages
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.messages import Outcome
from tests.kit.clipboard.stand import DEADLINE, Desk, desk
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import wait_window

TEXT, MINE = b"out of red", b"the person's own"


async def run(env, *argv, data=b"") -> bytes:
    with trio.fail_after(DEADLINE):
        done = await trio.run_process(
            argv, env=env, stdin=data, capture_stdout=True, check=False
        )
    return done.stdout


def inside(it: Desk, name: str):
    """For a program in a sandbox."""
    return {**it.comp.environment, "WAYLAND_DISPLAY": str(it.rooms[name].path)}


async def window(it: Desk, name: str, title: str) -> None:
    it.run(name, "foot", "-T", title, "sleep", "1000")
    await wait_window(it.comp, title=title, deadline=DEADLINE)
    await it.focus(name, title)


async def test_what_the_person_copied_is_pasted_by_chord_alone():
    async with desk("red", host=w.CopyTerms()) as it:
        own = it.comp.environment
        await run(own, "wl-copy", data=MINE)
        await window(it, "red", "target")
        assert await run(inside(it, "red"), "wl-paste", "-n") == b""
        await it.focus("red", "target")
        record = await it.paste()
        assert (record.outcome, record.source, record.size) == (
            Outcome.PASTED,
            w.VIEWER,
            len(MINE),
        ), record
        assert await run(inside(it, "red"), "wl-paste", "-n") == MINE
        # The person's own is still there: it was read, not taken.
        assert await run(own, "wl-paste", "-n") == MINE


async def test_without_a_rule_the_persons_own_is_not_even_asked_for():
    async with desk("red", host=None) as it:
        await run(it.comp.environment, "wl-copy", data=MINE)
        await window(it, "red", "target")
        assert (await it.paste()).outcome is Outcome.REFUSED
        assert not [m for _, m in it.said if isinstance(m, messages.ClipboardTypes)]


async def exported(it: Desk) -> None:
    await window(it, "red", "source")
    await run(inside(it, "red"), "wl-copy", data=TEXT)
    await it.focus("red", "source")
    assert (await it.copy()).outcome is Outcome.COPIED
    await it.until(lambda: [m for _, m in it.said if isinstance(m, messages.Exported)])


async def test_an_export_is_the_persons_selection_and_marked_as_a_secret():
    async with desk("red", outward=True) as it:
        await exported(it)
        (said,) = [m for _, m in it.said if isinstance(m, messages.Exported)]
        assert said.problem == ""
        own = it.comp.environment
        types = (await run(own, "wl-paste", "--list-types")).decode().split()
        assert SECRET_HINT in types
        assert len([t for t in types if "vitrail-export" in t]) == 1
        assert await run(own, "wl-paste", "-n") == TEXT
        assert await run(own, "wl-paste", "-n", "-t", SECRET_HINT) == b"secret"
        # The person copies something else: that is told, and once.
        await run(own, "wl-copy", data=MINE)
        await it.until(lambda: ended(it))
        assert len(ended(it)) == 1
        assert await run(own, "wl-paste", "-n") == MINE


def ended(it: Desk) -> list[messages.ExportEnded]:
    return [m for _, m in it.said if isinstance(m, messages.ExportEnded)]


async def test_an_export_is_taken_back_by_clear():
    async with desk("red", outward=True) as it:
        await exported(it)
        await it.feed("", w.Cleared())

        async def gone() -> bool:
            return await run(it.comp.environment, "wl-paste", "-n") == b""

        await eventually(gone, deadline=DEADLINE)


async def test_without_a_rule_a_copy_leaves_the_persons_selection_alone():
    async with desk("red", outward=True, policy=lambda *_: None) as it:
        own = it.comp.environment
        await run(own, "wl-copy", data=MINE)
        await window(it, "red", "source")
        await run(inside(it, "red"), "wl-copy", data=TEXT)
        await it.focus("red", "source")
        assert (await it.copy()).outcome is Outcome.COPIED
        await it.until(lambda: it.records[-1].outcome is Outcome.REFUSED)
        assert await run(own, "wl-paste", "-n") == MINE
        assert not [m for _, m in it.said if isinstance(m, messages.Exported)]


async def test_content_that_returns_through_the_person_keeps_its_origin():
    """Or two chords would carry it around the rule between two sandboxes."""
    async with desk("red", "blue", outward=True, host=w.CopyTerms()) as it:
        await exported(it)
        await it.feed("", w.Ticked())
        it.crossing._held = None  # as after its time
        await window(it, "blue", "target")
        before = len(it.questions)
        await it.paste()
        assert len(it.questions) == before + 1
        assert it.origins[-1] == "red"
