"""Witnesses: the changes of a log that each of two brokers notices."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from broker.authority.audit.proof.keys import KeyFile
from broker.core.errors import RefusedError
from broker.core.limits import audit as audit_limits
from broker.net.link.link_rows import WitnessNote
from tests.kit.audit.log import Attacker, edited, event, opened
from tests.kit.audit.witness import Line, sides, talk


async def test_each_checkpoint_goes_on_from_the_one_before(tmp_path: Path) -> None:
    async with sides(tmp_path) as (near, far):
        for number in range(5):
            await near.store.record(event(number))
        first = await talk(near, far, publish=2)
        assert [(r.since, bool(r.proof)) for r in first.asked] == [
            (0, False), (5, True), (6, True),
        ]  # fmt: skip
        # A new epoch: the held checkpoint is requested, then proved to be the beginning.
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
        assert "the log was changed before event 9" in far.conflicts()[0]
        assert near.witness.warnings()
        assert far.witness.warnings()


def _fourth_edited(bodies: list[str]) -> list[str]:
    return [*bodies[:3], edited(bodies[3]), *bodies[4:]]


async def test_a_malformed_checkpoint_or_a_false_proof(tmp_path: Path) -> None:
    async with sides(tmp_path) as (near, far):
        for number in range(9):
            await near.store.record(event(number))
        await talk(near, far, publish=1)
        line = Line("desk", far)
        with pytest.raises(RefusedError, match="not a checkpoint"):
            await far.witness.take(line, WitnessNote(["x"]))
        await near.store.record(event(11))
        note = (await near.store.checkpoint()).split("\n")
        lie = WitnessNote(note, 10, ["A" * 43 + "="])
        await far.witness.take(line, lie)
        assert "the log was changed before event 10" in far.conflicts()[0]
        # From another size than the newest one held: it is told which, once.
        await far.witness.take(line, WitnessNote(note, 3, ["A" * 43 + "="]))
        assert len(far.conflicts()) == 1


async def test_the_same_conflict_is_told_once_and_few_are_kept(tmp_path: Path) -> None:
    async with sides(tmp_path) as (near, far):
        notes = []
        for number in range(12):
            await near.store.record(event(number))
            notes.append((await near.store.checkpoint()).split("\n"))
        line = Line("desk", far)
        for note in [notes[-1], *reversed(notes[:-1]), notes[0]]:
            await far.witness.take(line, WitnessNote(note))
        assert len(far.conflicts()) == 1, "each says that it had 12 before"
        assert len(far.witness.warnings()) == 1


async def test_conflicts_without_end_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that was taken over can think up one with each request."""
    monkeypatch.setattr(audit_limits, "AUDIT_REFUSAL_KEYS_PER_SANDBOX", 5)
    async with sides(tmp_path) as (near, far):
        line = Line("desk", far)
        await near.store.record(event(0))
        first = (await near.store.checkpoint()).split("\n")
        keys = [key.split("\n") for key in await near.store.certificates(0, 1)]
        for number in range(1, 30):
            await near.store.record(event(number))
            note = (await near.store.checkpoint()).split("\n")
            size = number + 1
            hashes, _ = await near.witness._book.evidence(number, size, 1)
            proof = [base64.b64encode(hash_).decode() for hash_ in hashes]
            offer = WitnessNote(note, number, proof, keys)
            assert (await far.witness.take(line, offer)).kept
            await far.witness.take(line, WitnessNote(first))
        told = far.conflicts()
        assert 5 <= len(told) < 29
        assert any("of many kinds" in reason for reason in told), (
            "and the rest is counted"
        )


async def test_a_log_begun_again_in_its_place(tmp_path: Path) -> None:
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
        assert f"the log was {origin} and restarted" in told
        assert near.conflicts() == []
