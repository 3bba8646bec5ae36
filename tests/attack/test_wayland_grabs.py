"""Popup grabs: the keyboard stays where the person put it.

A client presents any serial that it was ever given, from any window, at any time.
Judged by what the honest client hears and by what the hostile one does not.
"""

from __future__ import annotations

import contextlib

import pytest
import trio

from broker.core.limits import wayland as limits
from broker.core.question import PersonAnswer
from broker.ipc import prompt as m
from broker.jail.wayland.protocol import emit
from tests.kit.prompting import agent, question
from tests.kit.wayland.people import HONEST, HOSTILE, Party, People, people

KINDS = ["sway", "weston", "kwin"]


def _both(p: People) -> None:
    """Two windows side by side; the hostile one was clicked into once."""
    p.hostile.begin(HOSTILE)
    if p.it.comp.display != p.behind:
        p.drag_away(p.hostile)
    p.honest.begin(HONEST)
    p.focus(p.hostile)
    p.serial = p.hostile.heard("button")[-1][0]


def _of_keyboard(p: People) -> list:
    return [e for e in p.honest.events if e[0] == p.honest.keyboard]


def _grab(p: People) -> int:
    surface, xdg, made = p.hostile.popup()
    p.hostile.send(made, "grab", p.hostile.seat, p.serial)
    p.hostile.roundtrip()
    if not p.hostile.heard("popup_done"):
        p.hostile.map(surface, xdg)
    return made


@pytest.mark.parametrize("kind", KINDS)
async def test_a_menu_does_not_keep_the_keyboard(kind):
    """The person clicks into another window while a menu is open."""

    def attack(p: People) -> None:
        _both(p)
        _grab(p)
        p.click_in(p.honest)
        p.click_in(p.honest)  # the first one may only end the menu
        assert p.eventually(p.honest.focused), "it never gets the keyboard"
        before = len(p.hostile.events)
        p.type("secret")
        assert len(p.honest.keys()) == 6
        assert p.hostile.keys(before) == []
        assert p.hostile.heard("popup_done") != []

    async with people(kind) as run:
        with trio.fail_after(60):
            await run(attack)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_window_in_the_background_takes_no_keyboard(kind):
    """With the serial of a press that was its own, long ago."""

    def attack(p: People) -> None:
        _both(p)
        p.focus(p.honest)
        since = len(_of_keyboard(p))
        _grab(p)
        before = len(p.hostile.events)
        p.type("secret")
        assert len(p.honest.keys()) == 6
        assert p.hostile.keys(before) == []
        assert "leave" not in [e[2] for e in _of_keyboard(p)[since:]]

    async with people(kind) as run:
        with trio.fail_after(60):
            await run(attack)


@pytest.mark.parametrize("grab", [False, True])
async def test_who_draws_into_a_menu_that_sway_closed_is_not_ended(grab):
    """sway closes menus when the focus leaves, and their client hears of it later."""

    def draws_on(p: People) -> None:
        _both(p)
        c = p.hostile
        surface, xdg, made = c.popup()
        if grab:
            c.send(made, "grab", c.seat, p.serial)
        c.map(surface, xdg)
        p.focus(p.honest)
        assert not c.heard("popup_done"), "it has not read yet"
        c.paint(surface, 60, 60, 0xFFFF00FF)
        c.send(surface, "commit")
        c.roundtrip()
        assert c.heard("popup_done")
        c.paint(surface, 60, 60, 0xFFFF00FF)
        c.send(surface, "commit")
        c.send(made, "destroy")
        c.send(xdg, "destroy")
        c.send(surface, "attach", 0, 0, 0)
        c.send(surface, "commit")
        c.roundtrip()
        p.focus(c)
        p.serial = c.heard("button")[-1][0]
        _grab(p)

    async with people("sway") as run:
        with trio.fail_after(100):
            await run(draws_on)


async def test_a_prompt_gets_the_keyboard_while_a_menu_is_open():
    asked = question()
    async with people() as run:
        grabbed, done = trio.Event(), trio.Event()

        def attack(p: People) -> list[int]:
            _both(p)
            _grab(p)
            trio.from_thread.run_sync(grabbed.set)
            before = len(p.hostile.events)
            trio.from_thread.run(shown.wait)
            for code in (30, 38, 1):  # Escape last: it answers
                p.keys.press(code)
            trio.from_thread.run(done.wait)
            p.hostile.roundtrip()
            return p.hostile.keys(before)

        shown = trio.Event()
        heard: list[int] = []
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:

                async def hostile() -> None:
                    heard.extend(await run(attack))

                nursery.start_soon(hostile)
                await grabbed.wait()
                async with agent(run.it.comp.environment) as a:
                    assert await a.hear() == m.PromptHello(layer=True)
                    await a.show(asked)
                    await trio.sleep(1.5)  # until it is armed, if it ever is
                    shown.set()
                    said = None
                    with trio.move_on_after(5):
                        said = await a.hear()
                    done.set()
        assert heard == [], "the sandbox hears keys that are typed at the prompt"
        assert said == m.PromptAnswer(
            1,
            PersonAnswer(allow=False, by="person", reason="the user pressed Escape"),
        )


def _deaf(c: Party) -> None:
    """Ask for answers, and read none, until they fill all queues."""
    c.sock.settimeout(1.0)
    with contextlib.suppress(OSError):
        for _ in range(4000):
            c.raw(emit.get_registry(1, c.new("wl_registry")))


async def test_a_client_that_reads_nothing_does_not_keep_the_focus():
    """Else the others' chords are refused, and a paste has later content."""

    def attack(p: People) -> None:
        _both(p)
        sandbox = p.it.sandbox
        assert sandbox.focused
        _deaf(p.hostile)
        p.focus(p.honest)
        assert p.eventually(lambda: not sandbox.focused, p.honest)

    async with people() as run:
        with trio.fail_after(60):
            await run(attack)


async def test_a_client_that_reads_nothing_is_ended_and_not_waited_for(monkeypatch):
    monkeypatch.setattr(limits, "WAYLAND_UNHEARD_BYTES", limits.WAYLAND_QUEUE_BYTES)

    def attack(p: People) -> None:
        _both(p)
        _deaf(p.hostile)
        p.focus(p.honest)
        assert p.eventually(lambda: bool(p.it.ends), p.honest)
        assert "does not read" in str(p.it.ends[0])

    async with people() as run:
        with trio.fail_after(60):
            await run(attack)
