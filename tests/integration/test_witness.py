"""Host and viewer keep each other's checkpoints, and notice a log that goes back."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import aclosing

import trio

from broker.authority.audit.proof.note import parse_note
from broker.ipc.audit.filters import Filters
from broker.ipc.audit.query import open_log
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two


def held(side) -> list[tuple[str, int]]:
    """Whose checkpoints this side keeps, and of what size."""
    db = sqlite3.connect(f"file:{side.paths.audit}?mode=ro", uri=True)
    try:
        rows = db.execute("SELECT peer, note FROM witness ORDER BY size").fetchall()
    finally:
        db.close()
    return [(peer, parse_note(note).checkpoint.size) for peer, note in rows]


def size(side) -> int:
    with open_log(side.paths.audit) as log:
        return log.newest()


async def conflict(side) -> dict[str, object]:
    """Wait for the event, however long the machine takes."""
    with trio.fail_after(30), open_log(side.paths.audit) as log:
        async with aclosing(
            log.follow(Filters(kinds=["audit.conflict"]), after=0)
        ) as f:
            return (await anext(f)).fields()


async def test_each_is_the_others_witness_and_a_roll_back_is_found():
    async with two(image=False, start=False) as t:
        (t.host.paths.config[0]).mkdir(parents=True, exist_ok=True)
        await t.viewer.start()
        await t.host.start()
        await t.up()

        async def both():
            return held(t.host) and held(t.viewer)

        await eventually(both)
        assert {peer for peer, _ in held(t.host)} == {"screen"}
        assert {peer for peer, _ in held(t.viewer)} == {"desk"}
        assert held(t.viewer)[-1][1] <= size(t.host)
        await t.host.shutdown()

        # A thief's copy of all that the host has: log, key, everything.
        copy = t.host.paths.state.with_name("copy")
        shutil.copytree(t.host.paths.state, copy)
        for _ in range(3):
            before = held(t.viewer)[-1][1]
            await t.host.start()
            await t.up()

            async def more(before=before):
                return held(t.viewer)[-1][1] > before

            await eventually(more)
            await t.host.shutdown()
        known = held(t.viewer)[-1][1]
        shutil.rmtree(t.host.paths.state)
        shutil.copytree(copy, t.host.paths.state)

        await t.host.start()
        await t.up()
        found = await conflict(t.host)
        assert found["peer"] == "screen"
        assert found["size"] == known
        assert "rolled back or truncated" in str(found["reason"])
        witness = await conflict(t.viewer)
        assert f"the log previously had {known} events" in str(witness["reason"])
        assert any("rolled back" in w for w in (await t.host.status()).warnings)
        assert any("checkpoint" in w for w in (await t.viewer.status()).warnings)
