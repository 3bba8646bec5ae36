"""Verify finds each change of a log, and names its place.

Every single change is tried, at every event: by an attacker with a database
program, by one who makes everything in the file fit again, and by a thief
who has the signing key of now.  On 150 events here, on 1,000 in the long run.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from broker.authority.audit.proof.keys import KeyFile
from broker.authority.audit.proof.note import Checkpoint
from broker.authority.audit.store import open_store
from broker.cli.audit.proof.verify import verify_end
from broker.core.errors import IntegrityError
from broker.ipc.audit.tree import Growing, leaf_hash, node_hash
from tests.kit.audit.log import Attacker, edited, event, fill, opened, report

SIZES = [150, pytest.param(1000, marks=pytest.mark.long)]


@dataclass
class Made:
    path: Path
    kept: str
    """The checkpoint at its end, as a witness keeps it."""
    size: int

    @property
    def evolved(self) -> int:
        """Size at the last evolution of the key."""
        return self.size * 8 // 10


@pytest.fixture(scope="module", name="made", params=SIZES)
def _made(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("audit") / "audit.sqlite"
    return Made(path, trio.run(fill, path, request.param), request.param)


@pytest.fixture(name="log")
def _log(made, tmp_path: Path):
    """A copy to be changed."""
    for file in made.path.parent.iterdir():
        shutil.copy(file, tmp_path / file.name)
    return Made(tmp_path / made.path.name, made.kept, made.size)


def says(found) -> str:
    return "; ".join(f"{p.where}: {p.what}" for p in found.problems)


def test_an_unchanged_log_is_good(log) -> None:
    with opened(log.path) as db:
        for checkpoints in ((), (log.kept,)):
            found = report(db, log.path, *checkpoints)
            assert found.good, says(found)
            assert not found.warnings
            assert (found.size, found.checked) == (log.size, log.size)
            assert (found.keys, found.sealed) == (5, log.evolved)
            assert found.against == len(checkpoints)
            assert found.checkpoints >= 7
            assert found.first_key.startswith(f"{found.origin}+")


# -- with a database program -----------------------------------------------------------

_STATEMENTS = {
    "edit": """UPDATE event SET body = replace(body, '"sequence"', '"sequence" ')
        WHERE sequence = :n""",
    "column": "UPDATE event SET sandbox = 'mail' WHERE sequence = :n",
    "hash": "UPDATE event SET leaf = zeroblob(32) WHERE sequence = :n",
    "no event": "UPDATE event SET body = '{}' WHERE sequence = :n",
    "deletion": "DELETE FROM event WHERE sequence = :n",
    "truncation": "DELETE FROM event WHERE sequence >= :n",
    "swap": """UPDATE event SET (body, leaf) = (SELECT body, leaf FROM event AS other
        WHERE other.sequence = iif(event.sequence = :n, :n + 1, :n))
        WHERE sequence IN (:n, :n + 1) AND :n < (SELECT max(sequence) FROM event)""",
    "insertion": """INSERT INTO event SELECT 1 - :n, time_ns, kind, sandbox, lease,
        service, verdict, rule, peer, outcome, body, leaf FROM event
        WHERE sequence = :n""",
}


@pytest.mark.parametrize("name", _STATEMENTS)
def test_every_row_touched_is_found(log, name: str) -> None:
    with opened(log.path) as db:
        for number in range(1, log.size + 1):
            db.execute("BEGIN")
            changed = db.execute(_STATEMENTS[name], {"n": number}).rowcount
            found = report(db, log.path)
            db.execute("ROLLBACK")
            if not changed:
                assert (name, number) == ("swap", log.size)
                continue
            assert not found.good
            first = found.problems[0]
            place = 1 - number if name == "insertion" else number
            assert first.first <= place <= first.last, (number, says(found))
        assert report(db, log.path).good


_UNREADABLE = {
    "nested": """UPDATE event SET body = '{"x":' || replace(hex(zeroblob(100000)), '0', '[')
        WHERE sequence = :n""",
    "removal of later": """UPDATE event SET kind = 'audit.pruned',
        body = json_set(body, '$.kind', 'audit.pruned', '$.later', 1)
        WHERE sequence = :n""",
}


@pytest.mark.parametrize("name", _UNREADABLE)
def test_unreadable_body_is_reported_and_the_rest_is_read(log, name: str) -> None:
    """A verifier that fails at one event would not say what else was changed."""
    with opened(log.path) as db:
        db.execute("BEGIN")
        db.execute(_UNREADABLE[name], {"n": 3})
        found = report(db, log.path)
        db.execute("ROLLBACK")
    assert found.checked == log.size
    assert found.problems[0].first == 3, says(found)


# -- everything made to fit ------------------------------------------------------------


def _edit(n: int):
    return lambda b: [*b[: n - 1], edited(b[n - 1]), *b[n:]]


def _delete(n: int):
    return lambda b: [*b[: n - 1], *b[n:]]


def _insert(n: int):
    return lambda b: [*b[: n - 1], b[0], *b[n - 1 :]]


def _truncate(n: int):
    return lambda b: b[: n - 1]


def _swap(n: int):
    return lambda b: [*b[: n - 1], *b[n : n + 1], b[n - 1], *b[n + 1 :]]


ATTACKS = {
    "edit": _edit,
    "deletion": _delete,
    "insertion": _insert,
    "truncation": _truncate,
    "swap": _swap,
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("stolen", [False, True], ids=["no key", "stolen key"])
def test_every_change_made_to_fit_is_found(log, name: str, stolen: bool) -> None:
    """Alone: all of them; with the key of now, those before its beginning.

    Against a checkpoint that was kept elsewhere: all of them, whatever was
    stolen.
    """
    key = KeyFile(log.path).load() if stolen else None
    with opened(log.path) as db:
        attacker = Attacker(db, key)
        last = log.size - 1 if name == "swap" else log.size
        for number in range(1, last + 1):
            with attacker.attack(ATTACKS[name](number)):
                keys = attacker.keys(log.path)
                alone = report(db, log.path, keys=keys)
                against = report(db, log.path, log.kept, keys=keys)
            if stolen and number > log.evolved:
                # The window: this is what a checkpoint elsewhere is for.
                assert alone.good, (number, says(alone))
            else:
                assert not alone.good, number
                first = alone.problems[0]
                inside = first.first <= number <= first.last
                assert inside or (stolen and name == "truncation"), says(alone)
            assert not against.good, number
        assert report(db, log.path, log.kept).good


@pytest.mark.parametrize("size", [0, 0.5, 0.79])
def test_a_thief_who_also_removes_the_key_file(log, size: float) -> None:
    """So that it does not contradict: then its absence says enough."""
    key = KeyFile(log.path).load()
    log.path.with_suffix(".key").unlink()
    cut = _truncate(int(log.size * size) + 1)
    with opened(log.path) as db, Attacker(db, key).attack(cut):
        assert not report(db, log.path).good
        assert not report(db, log.path, log.kept).good


async def test_an_older_copy_of_everything(log, tmp_path: Path) -> None:
    """Log and key: only a checkpoint kept elsewhere shows that it was longer."""
    older = tmp_path / "older" / "audit.sqlite"
    older.parent.mkdir()
    shutil.copy(log.path, older)
    shutil.copy(log.path.with_suffix(".key"), older.with_suffix(".key"))
    async with open_store(log.path) as store:
        await store.evolve()
        await store.record(event(1))
        newer = await store.checkpoint()
    with opened(older) as db:
        assert report(db, older).good
        found = report(db, older, newer)
    assert f"covers {log.size + 1}" in says(found)
    # The log alone: its key has gone on.
    with opened(older) as db:
        assert "has key 6" in says(report(db, log.path))


def test_a_log_begun_again_in_its_place(log, tmp_path: Path) -> None:
    other = tmp_path / "other" / "audit.sqlite"
    trio.run(fill, other, 100)
    with opened(log.path) as db, opened(other) as forged:
        origin = report(db, log.path).origin
        assert report(forged, other).good
        assert "this is not the log" in says(report(forged, other, origin=origin))
        assert "another log" in says(report(forged, other, log.kept))


def test_checkpoints_that_are_none(log) -> None:
    """A thief cannot make the log speak for him in the names of old keys."""
    key = KeyFile(log.path).load()
    assert key is not None
    forged = Checkpoint(key.origin, 10, b"x" * 32).signed(key.private, key.public)
    for statement, what in (
        ("UPDATE checkpoint SET note = 'x' WHERE kind = 'kept'", "not a checkpoint"),
        (
            "UPDATE checkpoint SET size = 7 WHERE kind = 'head'",
            "covers a different number",
        ),
        ("UPDATE checkpoint SET note = :forged, size = 10 WHERE kind = 'head'", "time"),
        ("DELETE FROM checkpoint WHERE kind = 'key 0'", "key 0 is missing"),
        ("DELETE FROM checkpoint WHERE kind = 'key 2'", "key 2 is missing"),
        ("DELETE FROM checkpoint WHERE kind = 'key 4'", "has key 4"),
        ("DELETE FROM checkpoint WHERE kind = 'head'", "not signed"),
        ("DELETE FROM checkpoint", "no signing key"),
        ("DELETE FROM subtree", "a different hash"),
        (
            "INSERT INTO subtree VALUES (8, 99, zeroblob(32))",
            "an unexpected node",
        ),
    ):
        if "DELETE FROM subtree" in statement and log.size < 256:
            continue
        with opened(log.path) as db:
            db.execute("BEGIN")
            words = {"forged": forged} if ":forged" in statement else {}
            db.execute(statement, words)
            found = report(db, log.path)
            db.execute("ROLLBACK")
            assert what in says(found), (statement, says(found))


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO subtree VALUES (-1, 5, x'00')",
        "INSERT INTO subtree VALUES (65, 5, x'00')",
        "INSERT INTO subtree VALUES (100000, 5, x'00')",
        "INSERT INTO subtree VALUES (9223372036854775807, 1, x'00')",
        "INSERT INTO subtree VALUES (8, -7, x'00')",
        "INSERT INTO pruned VALUES (-5, x'00')",
        "INSERT INTO pruned VALUES (9223372036854775807, NULL)",
        "UPDATE event SET sequence = 9223372036854775807 WHERE sequence = 50",
        "UPDATE event SET sequence = -1 WHERE sequence = 50",
        "UPDATE event SET leaf = x'' WHERE sequence = 50",
        "UPDATE event SET body = '[[[' WHERE sequence = 50",
        "UPDATE checkpoint SET size = -size WHERE kind = 'head'",
        "UPDATE checkpoint SET size = 9223372036854775807 WHERE kind = 'head'",
        "UPDATE subtree SET hash = x'00'",
    ],
)
def test_numbers_that_cannot_be_are_told_and_end_nothing(log, statement: str) -> None:
    """Both looks at it: that of 'audit verify' and that of a broker that starts."""
    with opened(log.path) as db:
        db.execute("BEGIN")
        if not db.execute(statement).rowcount:
            pytest.skip("nothing of that is in so short a log")
        found = report(db, log.path)
        assert not found.good
        assert len(says(found)) < 20_000
        verify_end(db, KeyFile(log.path).any())
        db.execute("ROLLBACK")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON event BEGIN DELETE FROM event; END",
        "CREATE VIEW v AS SELECT * FROM event",
        "DROP INDEX event_verdict",
        "CREATE TABLE more (x)",
    ],
)
async def test_a_database_with_something_planted_in_it(log, statement: str) -> None:
    with opened(log.path) as db:
        db.execute(statement)
        assert "the database was changed" in says(report(db, log.path))
    with pytest.raises(IntegrityError, match="database was changed"):
        async with open_store(log.path):
            pass


def test_text_that_is_none_does_not_stop_the_reader(log) -> None:
    with opened(log.path) as db:
        db.execute("UPDATE event SET sandbox = CAST(x'ff' AS TEXT) WHERE sequence = 9")
        assert "event 9: sandbox" in says(report(db, log.path))
        db.execute("UPDATE event SET body = CAST(x'7bff' AS TEXT) WHERE sequence = 11")
        assert "event 11: the body or the hash was changed" in says(
            report(db, log.path)
        )


def test_an_unsigned_checkpoint_from_elsewhere_is_refused(log) -> None:
    key = KeyFile(log.path).load()
    assert key is not None
    with opened(log.path) as db:
        lied = log.kept.replace(f"\n{log.size}\n", f"\n{log.size - 1}\n")
        assert "not signed by a key that the log had" in says(
            report(db, log.path, lied)
        )


def test_a_copy_without_its_key_warns_about_the_missing_proof(log) -> None:
    with opened(log.path) as db:
        found = report(db, log.path, keys=[], copy=True)
        assert found.good
        assert "older copy" in found.warnings[0]
        assert not report(db, log.path, keys=[]).good


# -- the pure core: all pairs ------------------------------------------------------------


class Heap:
    """A tree of a power of two of leaves with all its nodes."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.size = len(leaves)
        self.nodes = [b""] * self.size + leaves
        for n in range(self.size - 1, 0, -1):
            self.nodes[n] = node_hash(self.nodes[2 * n], self.nodes[2 * n + 1])

    def root_with(self, changed: dict[int, bytes]) -> bytes:
        """The root with other leaves in some places."""
        level = {self.size + n: leaf for n, leaf in changed.items()}
        nodes = self.nodes
        while 1 not in level:
            level = {
                n >> 1: node_hash(
                    level.get(n & ~1, nodes[n & ~1]), level.get(n | 1, nodes[n | 1])
                )
                for n in level
            }
        return level[1]


@pytest.mark.parametrize("size", [128, pytest.param(1024, marks=pytest.mark.long)])
def test_all_pairs_exchanged_give_another_root(size: int) -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    heap = Heap(leaves)
    growing = Growing()
    for leaf in leaves:
        growing.append(leaf)
    assert heap.root_with({0: leaves[0]}) == growing.root()
    tried = 0
    for one in range(size):
        for two in range(one):
            assert (
                heap.root_with({one: leaves[two], two: leaves[one]}) != growing.root()
            )
            tried += 1
    assert tried == size * (size - 1) // 2


@pytest.mark.parametrize("size", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_every_change_of_the_list_gives_another_root_at_the_end(size: int) -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    before = [Growing()]
    for leaf in leaves:
        before.append(before[-1].copy())
        before[-1].append(leaf)
    other = leaf_hash(b"other")

    def root(begin: int, rest: list[bytes]) -> bytes:
        tree = before[begin].copy()
        for leaf in rest:
            tree.append(leaf)
        return tree.root()

    real = before[-1].root()
    for n in range(size):
        assert root(n, [other, *leaves[n + 1 :]]) != real
        assert root(n, leaves[n + 1 :]) != real
        assert root(n, [other, *leaves[n:]]) != real
        assert root(n, [leaves[n], *leaves[n:]]) != real
        assert root(n, []) != real
