"""Checkpoints of other logs: kept as they came, and not without end."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit.proof.note import Checkpoint, Note, origin_of, parse_note, public_key
from broker.audit.proof.witness import held_notes
from broker.audit.store import open_store
from broker.core import limits
from broker.core.errors import RefusedError
from tests.kit.audit.log import opened


def note(size: int, log: int = 0, root: bytes = b"r" * 32) -> Note:
    """A checkpoint of some other log."""
    key = Ed25519PrivateKey.from_private_bytes(log.to_bytes(32, "big"))
    public = public_key(key)
    return parse_note(Checkpoint(origin_of(public), size, root).signed(key, public))


def sizes(path: Path) -> list[int]:
    with opened(path) as db:
        return [parse_note(text).checkpoint.size for _, _, text in held_notes(db)]


async def test_each_answer_is_the_newest_of_before(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        assert await store.hold("desk", note(5)) is None
        for size, before in ((9, 5), (7, 9), (9, 9), (12, 9)):
            held = await store.hold("desk", note(size))
            assert held is not None
            assert held.checkpoint.size == before
        assert await store.hold("desk", note(1, log=1)) is None
    assert sorted(sizes(path)) == [1, 5, 7, 9, 12]
    with opened(path) as db:
        assert held_notes(db, "nobody") == []


async def test_none_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        await store.hold("desk", note(5))
        await store.hold("desk", note(5, root=b"x" * 32))
    with opened(path) as db:
        ((_, _, kept),) = held_notes(db)
    assert parse_note(kept).checkpoint.root == b"r" * 32


async def test_the_newest_and_the_first_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    most = limits.AUDIT_WITNESSED
    async with open_store(path) as store:
        store._db.execute("PRAGMA synchronous = OFF")
        for size in range(1, most + 1):
            await store.hold("desk", note(size))
        assert len(sizes(path)) == most
        await store.hold("desk", note(most + 1))
        assert sizes(path) == [1, *range(2, most + 2)]
        await store.hold("desk", note(most + 2))
    assert sizes(path) == [1, *range(3, most + 3)]


async def test_a_peer_cannot_invent_logs_without_end(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite"
    async with open_store(path) as store:
        for number in range(limits.AUDIT_WITNESS_LOGS):
            await store.hold("desk", note(1, log=number))
        with pytest.raises(RefusedError, match="64 other logs"):
            await store.hold("desk", note(1, log=1000))
        assert await store.hold("desk", note(2, log=3)) is not None
