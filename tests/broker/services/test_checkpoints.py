"""Witnesses: what each of two brokers notices when a log is not what it was."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.audit.proof.keys import KeyFile
from broker.audit.query import Filters, open_log
from broker.audit.refusals import Refusals
from broker.audit.settings import Settings
from broker.audit.store import open_store
from broker.core import limits
from broker.core.errors import RefusedError
from broker.link import messages as m
from broker.link.wire_types import Role
from broker.services.checkpoints import Sealing, Witness
from broker.services.event_log import Journal
from tests.kit.audit.log import Attacker, edited, event, opened
from tests.kit.eventually import eventually


class Side:
    """A broker's log, with all that keeps and sends checkpoints."""

    def __init__(self, path: Path, store) -> None:
        self.path = path
        self.store = store
        self.sealing = Sealing(store, Settings())
        self.witness = Witness(store, self.sealing, Journal(store, Refusals(store)))

    def conflicts(self) -> list[str]:
        with open_log(self.path) as log:
            found = log.find(Filters(kinds=["audit.conflict"]))
            return [str(f.fields()["reason"]) for f in found]


class Line:
    """An epoch to the other side: requests are coded, and served at once."""

    def __init__(self, name: str, far: Side) -> None:
        self.name = name
        self.live = True
        self.asked: list[m.Witness] = []
        self._far = far

    async def ask(self, make):
        request = m.decode(m.encode(make(len(self.asked) + 1)), Role.HOST)
        self.asked.append(request)
        return await self._far.witness.take(Line("desk", self._far), request)


@asynccontextmanager
async def sides(directory: Path):
    async with AsyncExitStack() as stack:
        made = []
        for name in ("near", "far"):
            path = directory / name / "audit.sqlite"
            made.append(Side(path, await stack.enter_async_context(open_store(path))))
        yield made


async def told(side: Side) -> None:
    """Wait until a witness has told all that it has: it waits for news then.

    That all tasks are blocked would say nothing: the log has threads.
    """
    await eventually(lambda: side.witness._news.statistics().tasks_waiting, deadline=30)


async def talk(near: Side, far: Side, publish: int = 0) -> Line:
    """One epoch in which so many further checkpoints are published."""
    line = Line("screen", far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.witness.attend, line)
        await told(near)
        for number in range(publish):
            await near.store.record(event(number))
            await near.sealing.publish()
            await told(near)
        line.live = False
        nursery.cancel_scope.cancel()
    return line


async def test_each_checkpoint_goes_on_from_the_one_before(tmp_path: Path) -> None:
    async with sides(tmp_path) as (near, far):
        for number in range(5):
            await near.store.record(event(number))
        first = await talk(near, far, publish=2)
        assert [(r.since, bool(r.proof)) for r in first.asked] == [
            (0, False), (5, True), (6, True),
        ]  # fmt: skip
        # A new epoch: what is held is asked for, then shown to be the beginning.
        await near.store.record(event(9))
        await near.sealing.publish()
        second = await talk(near, far)
        assert [(r.since, bool(r.proof)) for r in second.asked] == [
            (0, False), (7, True),
        ]  # fmt: skip
        assert near.conflicts() == far.conflicts() == []
        assert near.witness.warnings() == far.witness.warnings() == []


async def test_a_log_that_was_rewritten_with_its_own_key(tmp_path: Path) -> None:
    """The broker cannot see it, nor can verify; both ends of the link can."""
    async with sides(tmp_path) as (near, far):
        for number in range(9):
            await near.store.record(event(number))
        await talk(near, far)
    path = tmp_path / "near" / "audit.sqlite"
    with opened(path) as db:
        attacker = Attacker(db, KeyFile(path).load())
        attacker.attack_for_good(_fourth_edited)
    async with sides(tmp_path) as (near, far):
        await near.store.record(event(10))
        await talk(near, far)
        assert "one of the first 9 events was changed" in near.conflicts()[0]
        assert "what it was at 9 events was changed" in far.conflicts()[0]
        assert near.witness.warnings()
        assert far.witness.warnings()


def _fourth_edited(bodies: list[str]) -> list[str]:
    return [*bodies[:3], edited(bodies[3]), *bodies[4:]]


async def test_what_is_no_checkpoint_or_a_false_proof(tmp_path: Path) -> None:
    async with sides(tmp_path) as (near, far):
        for number in range(9):
            await near.store.record(event(number))
        await talk(near, far, publish=1)
        line = Line("desk", far)
        with pytest.raises(RefusedError, match="not a checkpoint"):
            await far.witness.take(line, m.Witness(1, ["x"]))
        await near.store.record(event(11))
        note = (await near.store.checkpoint()).split("\n")
        lie = m.Witness(2, note, 9, ["A" * 43 + "="])
        await far.witness.take(line, lie)
        assert "what it was at 9 events was changed" in far.conflicts()[0]
        # Of a size that nobody keeps nothing can be said.
        await far.witness.take(line, m.Witness(3, note, 3, ["A" * 43 + "="]))
        assert len(far.conflicts()) == 1


async def test_the_same_conflict_is_told_once_and_few_are_kept(tmp_path: Path) -> None:
    async with sides(tmp_path) as (near, far):
        notes = []
        for number in range(12):
            await near.store.record(event(number))
            notes.append((await near.store.checkpoint()).split("\n"))
        line = Line("desk", far)
        for note in [notes[-1], *reversed(notes[:-1]), notes[0]]:
            await far.witness.take(line, m.Witness(1, note))
        assert len(far.conflicts()) == 1, "each says that it had 12 before"
        assert len(far.witness.warnings()) == 1


async def test_conflicts_without_end_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that was taken over can think up one with each request."""
    monkeypatch.setattr(limits, "AUDIT_REFUSAL_KEYS_PER_SANDBOX", 5)
    async with sides(tmp_path) as (near, far):
        line = Line("desk", far)
        await near.store.record(event(0))
        first = (await near.store.checkpoint()).split("\n")
        for number in range(1, 30):
            await near.store.record(event(number))
            note = (await near.store.checkpoint()).split("\n")
            await far.witness.take(line, m.Witness(1, note))
            await far.witness.take(line, m.Witness(1, first))
        told = far.conflicts()
        assert 5 <= len(told) < 29
        assert any("of many kinds" in reason for reason in told), (
            "and the rest is counted"
        )


async def test_a_log_begun_anew_in_its_place(tmp_path: Path) -> None:
    """Log and key removed together: at home nothing shows it."""
    async with sides(tmp_path) as (near, far):
        await near.store.record(event(1))
        await talk(near, far, publish=1)
        origin = near.store.origin
    for file in (tmp_path / "near").iterdir():
        file.unlink()
    async with sides(tmp_path) as (near, far):
        await near.store.record(event(1))
        await talk(near, far)
        await talk(near, far)
        (told,) = far.conflicts()
        assert f"it was {origin}, and was begun anew" in told
        assert near.conflicts() == []
