"""A peer that was taken over, or is beside an honest one, lies to its witness."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio

from broker.authority.audit import store as audit_store
from broker.authority.audit.proof.ed25519 import PrivateKey
from broker.authority.audit.proof.keys import KeyFile, SigningKey
from broker.authority.audit.proof.note import (
    Checkpoint,
    KeyChange,
    parse_note,
)
from broker.authority.audit.proof.witness import hold_note
from broker.cli.audit.verify import held_notes
from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import audit as audit_limits
from broker.host_and_viewer.checkpoints import _Far
from broker.ipc.audit.database import open_database
from broker.net.link.link_rows import Witnessed, WitnessNote
from tests.kit.audit.log import event, opened
from tests.kit.audit.witness import Line, Side, sides, talk


def held(side: Side, peer: str = "desk") -> list[int]:
    with opened(side.path) as db:
        return [parse_note(note).checkpoint.size for _, _, note in held_notes(db, peer)]


async def publish(near: Side, far: Side, events: int) -> None:
    for number in range(events):
        await near.store.record(event(number))
    await near.sealing.publish()
    await talk(near, far)


def made_up(origin: str, size: int, private: PrivateKey) -> list[str]:
    note = Checkpoint(origin, size, size.to_bytes(32, "big"))
    return note.signed(private, private.public()).split("\n")


async def flood(line: Line, far: Side, private: PrivateKey, origin: str) -> None:
    for number in range(audit_limits.AUDIT_WITNESSED + 5):
        note = made_up(origin, 1000 + number, private)
        with suppress(RefusedError):
            await far.witness.take(line, WitnessNote(note))


@pytest.mark.parametrize("peer", ["desk", "other"])
async def test_made_up_notes_push_out_none(tmp_path: Path, peer: str) -> None:
    """Of the log's own peer without its key, and of another one of its name."""
    async with sides(tmp_path) as (near, far):
        await publish(near, far, 9)
        await publish(near, far, 2)
        before = held(far)
        assert before == [9, 11]
        anyone = PrivateKey.generate()
        await flood(Line(peer, far), far, anyone, near.store.origin)
        assert held(far) == before
        assert held(far, "other") == []
        assert far.conflicts() if peer == "desk" else True
        await publish(near, far, 1)
        assert held(far) == [9, 11, 12], "and the honest one is heard on"


async def test_the_real_key_pushes_out_none_either(tmp_path: Path) -> None:
    """A taken-over broker signs any checkpoint, and can prove none of them."""
    async with sides(tmp_path) as (near, far):
        await publish(near, far, 9)
        (key,) = KeyFile(near.path).any()
        await flood(Line("desk", far), far, key.private, near.store.origin)
        assert held(far) == [9]
        reason = far.conflicts()[0]
        assert "contains no proof that it continues the log of 9 events" in reason


async def test_a_peer_begins_new_logs_without_end(tmp_path: Path) -> None:
    async with sides(tmp_path) as (near, far):
        await publish(near, far, 3)
        line = Line("desk", far)
        refused = 0
        for number in range(3 * audit_limits.AUDIT_WITNESS_LOGS):
            async with sides(tmp_path / str(number)) as (other, _):
                await other.store.record(event(1))
                note = (await other.store.checkpoint()).split("\n")
                keys = [key.split("\n") for key in await other.store.certificates(0, 9)]
            try:
                await far.witness.take(line, WitnessNote(note, keys=keys))
            except RefusedError:
                refused += 1
        assert refused == 2 * audit_limits.AUDIT_WITNESS_LOGS + 1
        assert 3 in held(far)
        assert far.conflicts()


async def test_certificates_that_do_not_follow(tmp_path: Path) -> None:
    async with sides(tmp_path) as (near, far):
        await near.store.evolve()
        await near.store.evolve()
        keys = [key.split("\n") for key in await near.store.certificates(0, 9)]
        note = (await near.store.checkpoint()).split("\n")
        line = Line("desk", far)
        for wrong in ([keys[1]], [keys[0], keys[2]], [keys[0], note]):
            with pytest.raises(RefusedError, match="certificate"):
                await far.witness.take(line, WitnessNote(note, keys=wrong))
        assert held(far) == []
        assert (await far.witness.take(line, WitnessNote(note, keys=keys))).kept


async def test_notes_kept_before_are_believed_when_they_are_signed(
    tmp_path: Path,
) -> None:
    """What any peer could put there is not; what the log's key signed still counts."""
    async with sides(tmp_path) as (near, far):
        for number in range(7):
            await near.store.record(event(number))
        real = await near.store.checkpoint()
        anyone = PrivateKey.generate()
        lie = "\n".join(made_up(near.store.origin, 5000, anyone))
    db, _ = open_database(tmp_path / "far" / "audit.sqlite")
    for size, text in ((7, real), (5000, lie)):
        row = ("desk", parse_note(text).checkpoint.origin, size, 0, text)
        db.execute("INSERT INTO witness_unproved VALUES (?, ?, ?, ?, ?)", row)
    db.close()
    async with sides(tmp_path) as (near, far):
        await publish(near, far, 1)
        assert held(far) == [7, 8]
        assert far.conflicts() == near.conflicts() == []


async def test_size_that_no_database_holds_is_refused(tmp_path: Path) -> None:
    """Of a log of the peer's own making, signed and certified as it should be."""
    key = SigningKey.first(0)
    first = Checkpoint(key.origin, 0, bytes(32), KeyChange(0, key.public))
    async with sides(tmp_path) as (_, far):
        for size in (1 << 63, 10**19 - 1, 10**18):
            note = Checkpoint(key.origin, size, bytes(32)).signed(
                key.private, key.public
            )
            keys = [first.signed(key.private, key.public).split("\n")]
            request = WitnessNote(note.split("\n"), keys=keys)
            with pytest.raises(RefusedError, match="its size is not a number"):
                await far.witness.take(Line("desk", far), request)
        assert held(far) == []


async def test_a_log_that_is_signed_many_times(tmp_path: Path) -> None:
    """Each wrong signature before the right one costs its reader a computation."""
    key = SigningKey.first(0)
    first = Checkpoint(key.origin, 0, bytes(32), KeyChange(0, key.public))
    text, own = first.signed(key.private, key.public).split("\n\n")
    other = Checkpoint(key.origin, 1, bytes(32)).signed(key.private, key.public)
    wrong = other.split("\n\n")[1]
    async with sides(tmp_path) as (_, far):
        keys = [f"{text}\n\n{wrong * 6}{own}".split("\n")]
        request = WitnessNote(other.split("\n"), keys=keys)
        with pytest.raises(RefusedError, match="two signatures"):
            await far.witness.take(Line("desk", far), request)


async def test_the_log_waits_for_no_queue_of_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer sends as many at a time as it may, each with keys to be checked."""
    first = signer = SigningKey.first(0)
    last = audit_limits.AUDIT_WITNESS_KEYS - 1
    keys = []
    for number in range(last + 1):
        new = signer.next(0) if number else first
        # The last one does not follow, so that all are checked again each time.
        by = signer if number < last else SigningKey.first(0)
        change = KeyChange(number, new.public)
        note = Checkpoint(first.origin, 0, bytes(32), change)
        keys.append(note.signed(by.private, by.public).split("\n"))
        signer = new
    looked = []

    def counted(*words):
        looked.append(words)
        return hold_note(*words)

    monkeypatch.setattr(audit_store, "hold_note", counted)
    async with sides(tmp_path) as (_, far), trio.open_nursery() as nursery:

        async def send(number: int) -> None:
            note = made_up(first.origin, 5, PrivateKey.generate())
            request = WitnessNote(note, keys=keys)
            with suppress(RefusedError):
                await far.witness.take(Line("desk", far), request)

        for number in range(1, 65):
            nursery.start_soon(send, number)
        await trio.lowlevel.checkpoint()
        await far.store.record(event(1))
        assert len(looked) < 10
        nursery.cancel_scope.cancel()


class Insatiable(Line):
    """A witness that keeps nothing and asks for another proof each time."""

    def __init__(self, far: Side, answers: list[int], *, known: bool) -> None:
        super().__init__("screen", far)
        self.kept = ""
        self._answers, self._known = answers, known

    async def call(self, row, request):
        del row
        self.asked.append(request)
        assert len(self.asked) < 100, "the sender continues without end"
        number = self._answers[len(self.asked) % len(self._answers)]
        number += len(self.asked) * (len(self._answers) == 1)
        note = [] if self._known else self.kept.split("\n")
        return Witnessed(note if number % 2 else [], kept=False, known=number)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("answers", [[3, 4], [0], [7, 900]])
async def test_a_witness_that_is_never_content(
    tmp_path: Path, answers: list[int], *, known: bool
) -> None:
    """It alternates between answers, or counts up: each would cost a proof."""
    async with sides(tmp_path) as (near, far):
        await publish(near, far, 9)
        line = Insatiable(far, answers, known=known)
        line.kept = near.sealing.newest
        with pytest.raises(UpstreamError, match="rejects the checkpoint"):
            await near.witness._offer(line, near.sealing.newest, _Far())
        assert len(line.asked) < 10
