"""Chords in what a real compositor sends a client with two keyboards."""

from __future__ import annotations

import os

import trio

from broker.core.clipboard.key_verdicts import KeyVerdict
from broker.jail.clipboard.chord_recogniser import PRESSED, RELEASED, Recogniser
from tests.kit.wayland.client import Window
from tests.kit.wayland.compositor import desktop, wait_window
from tests.kit.wayland.input import Keyboard
from tests.kit.wayland.keymaps import compiled

C, V, A, SHIFT, SUPER = 46, 47, 30, 42, 125


class Watched(Window):
    """A window whose keyboards' events are judged, in their order."""

    def judge(self, core: Recogniser) -> list[tuple[int, int, KeyVerdict]]:
        """Key, state and verdict of every key event so far."""
        found, keymaps = [], iter(self.fds)
        for _, interface, name, args in self.events:
            match (interface, name):
                case ("wl_keyboard", "keymap"):
                    core.keymap(os.pread(next(keymaps), args[-1], 0))
                case ("wl_keyboard", "enter"):
                    core.enter(memoryview(bytes(args[2])).cast("I"))
                case ("wl_keyboard", "leave"):
                    core.leave()
                case ("wl_keyboard", "modifiers"):
                    core.modifiers(*args[1:])
                case ("wl_keyboard", "key"):
                    serial, _, key, state = args
                    found.append((key, state, core.key(serial, key, state)))
        return found


def play(keyboard: Keyboard) -> None:
    """A chord, both under a Russian layout, and a letter."""
    keyboard.modifiers(0)
    for layout in (0, 1):
        for key, held in ((SUPER, 64), (SHIFT, 65)):
            keyboard.change(key, PRESSED)
            keyboard.modifiers(held, layout)
        keyboard.press(C)
        keyboard.press(V)
        for key, held in ((SUPER, 1), (SHIFT, 0)):
            keyboard.change(key, RELEASED)
            keyboard.modifiers(held, layout)
    keyboard.press(A)


async def test_sway_tells_each_chord_once_and_the_rest_passes():
    async with desktop() as comp:
        with (
            Keyboard(comp.display, compiled("us,ru") + b"\0") as keyboard,
            Watched(comp.display) as window,
        ):

            def run() -> None:
                window.start()
                seat = window.bind("wl_seat", 5)
                for _ in range(2):
                    window.make(seat, "get_keyboard", "wl_keyboard")
                window.show(300, 200, 0xFF336699)
                window.wait(lambda e: e[1:3] == ("wl_keyboard", "enter"))
                play(keyboard)
                window.wait(
                    lambda e: e[2] == "key" and e[3][2:] == [A, RELEASED],
                )
                window.roundtrip()

            await trio.to_thread.run_sync(run)
            await wait_window(comp)
            core = Recogniser()
            events = window.judge(core)
    assert core.trouble == ""
    told = [v for _, _, v in events if v in {KeyVerdict.COPY, KeyVerdict.PASTE}]
    assert told == [KeyVerdict.COPY, KeyVerdict.PASTE] * 2
    passed = [(k, s) for k, s, v in events if v is KeyVerdict.FORWARD]
    once = [(SUPER, 1), (SHIFT, 1), (SUPER, 0), (SHIFT, 0)] * 2 + [(A, 1), (A, 0)]
    # Twice, as there are two keyboards; of the chords' letters nothing.
    assert sorted(passed) == sorted(once * 2)
    assert {k for k, _, v in events if v is KeyVerdict.SWALLOW} == {C, V}
