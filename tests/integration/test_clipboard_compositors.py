"""Chords and crossing on other compositors than sway, each shown on one."""

from __future__ import annotations

import threading

import pytest
import trio

from broker.ipc import clipboard as messages
from broker.viewer.clipboard.exchange import messages as w
from broker.viewer.clipboard.exchange.messages import Outcome
from tests.kit.clipboard.client import TEXT, Guest, gives, guest, serves, takes
from tests.kit.clipboard.stand import Desk, desk
from tests.kit.needs import requires

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]
SECRET = b"over the wall"
KINDS = [
    "sway",
    "weston",
    pytest.param("kwin", marks=requires("kwin_wayland")),
    pytest.param("mutter", marks=requires("mutter", "dbus-run-session", "bwrap")),
]


def said(it: Desk, kind: type) -> list:
    return [message for _, message in it.said if isinstance(message, kind)]


@pytest.mark.parametrize("kind", KINDS)
async def test_text_crosses_by_two_chords(kind):
    async with desk("red", "blue", kind=kind) as it:

        def pastes(c: Guest) -> bytes:
            record = trio.from_thread.run(it.paste)
            assert record.outcome is Outcome.PASTED, record
            return takes(c)

        def copies(c: Guest) -> bytes:
            record = gives(c, SECRET)
            assert record.outcome is Outcome.COPIED, record
            return trio.from_thread.run(guest, it, "blue", pastes)

        assert await guest(it, "red", copies) == SECRET
        (trouble, *_) = [*said(it, messages.ChordTroubleMessage), None]
        assert trouble is None or not trouble.reason


@pytest.mark.parametrize("kind", KINDS)
async def test_the_persons_own_selection_comes_in_by_chord(kind):
    async with desk("red", kind=kind, host=w.CopyTerms()) as it:

        def pastes(c: Guest) -> w.RecordCrossing:
            return trio.from_thread.run(it.paste)

        def copies(c: Guest) -> w.RecordCrossing:
            source = c.select(TEXT)
            over = threading.Event()

            async def both() -> w.RecordCrossing:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        trio.to_thread.run_sync, serves, c, source, SECRET, over
                    )
                    try:
                        return await guest(it, "red", pastes)
                    finally:
                        over.set()

            return trio.from_thread.run(both)

        record = await guest(it, "", copies, direct=True)
        assert record.outcome is Outcome.PASTED, record
        assert (record.source, record.size) == (w.VIEWER, len(SECRET))


@pytest.mark.parametrize("kind", KINDS)
async def test_the_compositor_takes_an_export(kind):
    async with desk("red", kind=kind, outward=True) as it:

        def copies(c: Guest) -> None:
            assert gives(c, SECRET).outcome is Outcome.COPIED
            trio.from_thread.run(it.until, lambda: said(it, messages.Exported))

        await guest(it, "red", copies)
        assert [m.problem for m in said(it, messages.Exported)] == [""]
