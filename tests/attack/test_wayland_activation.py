"""A token whose input is long past, on a compositor that gives the focus for it."""

from __future__ import annotations

import trio

from broker.core.limits import wayland as limits
from tests.kit.wayland.people import HONEST, HOSTILE, People, people
from tests.kit.wayland.stand import CONFIG

TAKES = (
    CONFIG
    + "focus_on_window_activation focus\n"
    + 'for_window [title="^.work"] move position 60 60\n'
    + 'for_window [title="^honest"] move position 700 300\n'
)


def _token(p: People, manager: int, serial: int) -> int:
    """A token that names its input, and is not asked for yet."""
    kind = "xdg_activation_token_v1"
    made = p.hostile.make(manager, "get_activation_token", kind)
    p.hostile.send(made, "set_serial", serial, p.hostile.seat)
    p.hostile.roundtrip()
    return made


def _ask(p: People, manager: int, token: int) -> None:
    since = len(p.hostile.events)
    p.hostile.send(token, "commit")
    p.hostile.roundtrip()
    (text,) = [e[3][0] for e in p.hostile.events[since:] if e[0] == token]
    p.hostile.send(manager, "activate", text, p.hostile.win)
    p.hostile.roundtrip()
    p.honest.roundtrip()


async def test_a_window_behind_takes_no_keyboard_with_a_token_that_it_kept(monkeypatch):
    """Each press would be an entry for later, when the keys are worth most."""

    def attack(p: People) -> None:
        p.hostile.begin(HOSTILE)
        manager = p.hostile.bind("xdg_activation_v1", 1)
        p.honest.begin(HONEST)
        p.focus(p.hostile)
        serial = p.hostile.heard("button")[-1][0]
        young, old = _token(p, manager, serial), _token(p, manager, serial)
        p.focus(p.honest)
        _ask(p, manager, young)
        assert p.eventually(p.hostile.focused), "the compositor heeds no token at all"
        p.focus(p.honest)
        # The input that the second token names is old now, as after 20 s.
        monkeypatch.setattr(limits, "WAYLAND_ACTIVATION_SECONDS", 0.0)
        before = len(p.hostile.events)
        _ask(p, manager, old)
        p.type("abc")
        assert p.hostile.keys(before) == []
        assert p.honest.focused()

    async with people(config=TAKES) as run:
        with trio.fail_after(60):
            await run(attack)
