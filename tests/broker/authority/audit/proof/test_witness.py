"""Checkpoints of other logs: kept when they are signed and proved, and not without end."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.authority.audit.proof.keys import SigningKey
from broker.authority.audit.proof.note import Checkpoint, KeyChange, Note, parse_note
from broker.authority.audit.proof.offer import WitnessFate, WitnessOffer
from broker.authority.audit.store import open_store
from broker.cli.audit.verify import held_notes
from broker.core.errors import RefusedError
from broker.core.limits import audit as audit_limits
from broker.ipc.audit.tree import Growing, consistency_proof, leaf_hash, node_hash
from tests.kit.audit.log import opened


class OtherLog:
    """A log of so many equal events, with its first key."""

    def __init__(self, word: bytes = b"x") -> None:
        self.key = SigningKey.first(0)
        self._leaf = leaf_hash(word)

    def root(self, size: int) -> bytes:
        tree = Growing()
        for _ in range(size):
            tree.append(self._leaf)
        return tree.root()

    def _node(self, height: int, number: int) -> bytes:
        del number
        node = self._leaf
        for _ in range(height):
            node = node_hash(node, node)
        return node

    def note(self, size: int, change: KeyChange | None = None) -> Note:
        found = Checkpoint(self.key.origin, size, self.root(size), change)
        return parse_note(found.signed(self.key.private, self.key.public))

    def certificate(self) -> Note:
        return self.note(0, KeyChange(0, self.key.public))

    def offer(self, size: int, since: int = 0) -> WitnessOffer:
        proof = consistency_proof(since, size, self._node) if since else []
        return WitnessOffer(self.note(size), since, proof, [self.certificate()])


def sizes(path: Path) -> list[int]:
    with opened(path) as db:
        return [parse_note(text).checkpoint.size for _, _, text in held_notes(db)]


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    return tmp_path / "audit.sqlite"


async def test_only_a_continuation_of_the_newest_is_kept(path: Path) -> None:
    log = OtherLog()
    async with open_store(path) as store:
        first = await store.hold("desk", log.offer(5))
        assert (first.fate, first.before, first.key) == (WitnessFate.KEPT, None, 0)
        for size, since, before, fate in (
            (9, 5, 5, WitnessFate.KEPT),
            (9, 0, 9, WitnessFate.KEPT),
            (7, 5, 9, WitnessFate.BACK),
            (12, 0, 9, WitnessFate.UNPROVED),
            (12, 5, 9, WitnessFate.UNPROVED),
            (12, 9, 9, WitnessFate.KEPT),
        ):
            answer = await store.hold("desk", log.offer(size, since))
            assert answer.fate is fate, (size, since)
            assert answer.before is not None
            assert answer.before.checkpoint.size == before
    assert sizes(path) == [5, 9, 12]
    with opened(path) as db:
        assert held_notes(db, "nobody") == []


async def test_another_tree_under_the_same_key_is_told(path: Path) -> None:
    log, other = OtherLog(), OtherLog(b"y")
    other.key = log.key
    async with open_store(path) as store:
        await store.hold("desk", log.offer(5))
        assert (await store.hold("desk", other.offer(5))).fate is WitnessFate.FORKED
        assert (await store.hold("desk", other.offer(8, 5))).fate is WitnessFate.CHANGED
    assert sizes(path) == [5]


async def test_each_peer_has_its_own(path: Path) -> None:
    log = OtherLog()
    async with open_store(path) as store:
        await store.hold("desk", log.offer(5))
        answer = await store.hold("other", log.offer(3))
        assert (answer.fate, answer.before) == (WitnessFate.KEPT, None)
        again = OtherLog()
        assert (await store.hold("desk", again.offer(2))).restarted == log.key.origin


async def test_a_note_without_its_keys_waits_for_them(path: Path) -> None:
    log = OtherLog()
    async with open_store(path) as store:
        answer = await store.hold("desk", WitnessOffer(log.note(5)))
        assert (answer.fate, answer.key) == (WitnessFate.UNSIGNED, -1)
        assert (await store.hold("desk", log.offer(5))).fate is WitnessFate.KEPT


async def test_the_newest_and_the_first_are_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_limits, "AUDIT_WITNESSED", 5)
    log = OtherLog()
    async with open_store(path) as store:
        for size in range(1, 9):
            await store.hold("desk", log.offer(size, size - 1))
    assert sizes(path) == [1, 4, 5, 6, 7, 8]


async def test_a_peer_cannot_invent_logs_without_end(path: Path) -> None:
    async with open_store(path) as store:
        logs = [OtherLog() for _ in range(audit_limits.AUDIT_WITNESS_LOGS + 1)]
        for log in logs[:-1]:
            await store.hold("desk", log.offer(1))
        with pytest.raises(RefusedError, match="8 logs, the limit"):
            await store.hold("desk", logs[-1].offer(1))
        assert (await store.hold("desk", logs[3].offer(2, 1))).fate is WitnessFate.KEPT
        assert (await store.hold("other", logs[-1].offer(1))).fate is WitnessFate.KEPT
