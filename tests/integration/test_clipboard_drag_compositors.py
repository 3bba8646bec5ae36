"""Drags between sandboxes on other compositors than sway, by a scripted client."""

from __future__ import annotations

import os
from functools import partial

import pytest
import trio

from broker.ipc import clipboard as messages
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.messages import Outcome
from tests.integration.test_clipboard_compositors import KINDS as ALL
from tests.kit.clipboard.client import (
    TEXT,
    Drag,
    Guest,
    gives_drop,
    guest,
    let_go,
    shown,
    takes_drop,
)
from tests.kit.clipboard.nested import LARGE, drag_nested
from tests.kit.clipboard.stand import Desk, desk

pytestmark = [pytest.mark.long, pytest.mark.timeout(150)]
SECRET = b"over the wall"
KINDS = [kind for kind in ALL if kind != "sway"]
"""On sway they are tried wherever drags are."""


def over(it: Desk, name: str) -> int:
    """How often a drag came over this sandbox's windows."""
    return sum(
        who == name and isinstance(s, messages.DragOverMessage) for who, s in it.said
    )


def drags(c: Guest, target: str, act, *types: bytes, source: str = "red"):
    """From the target's thread: have a window of another party drag over it."""

    def inside(r: Guest):
        came = partial(over, c.it, target)
        # A sandboxed source is not informed of another sandbox's window.
        accepted = partial(c.it.drag_accepted, target) if source else None
        return act(r, drag_nested(r, *types, over=came, accepted=accepted))

    run = partial(guest, c.it, source, inside, title="from", direct=not source)
    return trio.from_thread.run(run)


def gives(r: Guest, drag: Drag) -> str:
    return gives_drop(r, drag, SECRET)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_drop_crosses_by_rule(kind):
    async with desk("red", "blue", kind=kind, drags=w.CopyTerms()) as it:

        def target(c: Guest) -> tuple[list[str], str, bytes]:
            before: list[str] = []

            def act(r: Guest, drag: Drag) -> str:
                before.extend(shown(c))
                return gives(r, drag)

            end = drags(c, "blue", act)
            return before, end, takes_drop(c)

        before, end, found = await guest(it, "blue", target, title="target", size=LARGE)
        assert before == [], "while it is dragged it sees nothing"
        assert (end, found) == ("dnd_finished", SECRET)
        (record,) = it.records
        assert (record.outcome, record.selection) == (Outcome.PASTED, "drag")
        assert (record.source, record.target) == ("red", "blue")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_denied_drag_is_shown_to_no_window(kind):
    no = lambda *_: None  # noqa: E731
    async with desk("red", "blue", kind=kind, drags=w.CopyTerms(), policy=no) as it:

        def target(c: Guest) -> list[str]:
            drags(c, "blue", gives)
            trio.from_thread.run(it.record_after, 0)
            return shown(c)

        assert await guest(it, "blue", target, title="target", size=LARGE) == []
        (record,) = it.records
        assert (record.outcome, record.selection) == (Outcome.REFUSED, "drag")
        assert it.offers == []


@pytest.mark.parametrize("kind", KINDS)
async def test_the_persons_own_drag_comes_in_by_rule(kind):
    async with desk("blue", kind=kind, drags=w.CopyTerms()) as it:

        def target(c: Guest) -> tuple[str, bytes]:
            return drags(c, "blue", gives, source=""), takes_drop(c)

        found = await guest(it, "blue", target, title="target", size=LARGE)
        assert found == ("dnd_finished", SECRET)
        (record,) = it.records
        assert (record.source, record.target) == (w.VIEWER, "blue")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dragged_file_is_refused_and_not_read(kind):
    async with desk("red", "blue", kind=kind, drags=w.CopyTerms()) as it:

        def target(c: Guest) -> tuple[list[str], list[str]]:
            def act(r: Guest, drag: Drag) -> list[str]:
                let_go(r, drag)
                trio.from_thread.run(it.record_after, 0)
                r.roundtrip()
                return [e[2] for e in r.events if e[0] == drag.source]

            told = drags(c, "blue", act, b"x-special/gnome-copied-files", TEXT)
            return told, shown(c)

        told, seen = await guest(it, "blue", target, title="target", size=LARGE)
        assert "send" not in told
        assert seen == []
        assert it.offers == []


def accepts(c: Guest) -> int:
    """How often a drag came over this client's window; it would take it."""
    c.roundtrip()
    came = [e for e in c.events if e[0] == c.device and e[2] == "enter"]
    if came:
        serial, offer = came[-1][3][0], came[-1][3][4]
        c.send(offer, "accept", serial, TEXT)
        c.send(offer, "set_actions", 1, 1)
        c.roundtrip()
    return len(came)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_drag_inside_of_a_sandbox_is_the_compositors_and_no_rules(kind):
    """Between two programs of it, whatever the rules."""
    async with desk("red", kind=kind) as it:

        def target(c: Guest) -> str:
            def inside(r: Guest) -> str:
                return let_go(r, drag_nested(r, over=lambda: accepts(c)))

            return trio.from_thread.run(partial(guest, it, "red", inside, title="from"))

        end = await guest(it, "red", target, title="target", size=LARGE)
        assert end == "dnd_drop_performed"
        assert it.records == []


@pytest.mark.parametrize("kind", KINDS)
async def test_a_drag_goes_out_by_rule(kind):
    out = ("text/plain",)
    async with desk("red", kind=kind, drags=w.CopyTerms(), drags_out=out) as it:

        def target(c: Guest) -> bytes:
            def inside(r: Guest) -> bytes:
                drag = drag_nested(r, over=lambda: accepts(c))
                assert let_go(r, drag) == "dnd_drop_performed"
                c.wait(lambda e: e[0] == c.device and e[2] == "drop")
                offer = [e for e in c.events if e[0] == c.device and e[2] == "enter"]
                theirs, ours = os.pipe()
                c.send(offer[-1][3][4], "receive", TEXT, fds=[ours])
                os.close(ours)
                with os.fdopen(r.asked(drag.source), "wb") as asked:
                    asked.write(SECRET)
                with os.fdopen(theirs, "rb") as pipe:
                    return pipe.read()

            return trio.from_thread.run(partial(guest, it, "red", inside, title="from"))

        run = partial(guest, it, "", target, title="target", size=LARGE, direct=True)
        assert await run() == SECRET
        (record,) = it.records
        assert (record.outcome, record.target) == (Outcome.EXPORTED, w.VIEWER)
