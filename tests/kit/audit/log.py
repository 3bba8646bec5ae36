"""An audit log of a thousand events, made by the real store, to be attacked."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import trio

from broker.authority.audit.proof.keys import KeyFile, SigningKey
from broker.authority.audit.proof.note import Checkpoint, parse_note
from broker.authority.audit.store import open_store
from broker.cli.audit.proof.verify import verify
from broker.ipc.audit import schema
from broker.ipc.audit.database import row_of
from broker.ipc.audit.tree import BLOCK, Growing, leaf_hash


def event(number: int) -> schema.Event:
    """One of a mix, as a broker writes them."""
    subject = {"sandbox": f"web-{number % 7}", "lease": f"{number % 7:016x}"}
    stream = {**subject, "service": "vitrail.Display", "stream": number}
    match number % 4:
        case 0:
            return schema.Decision(
                **stream,
                verdict=schema.EventVerdict.ALLOW,
                rule=f"/x/web.toml:{number}:1",
            )
        case 1:
            return schema.StreamOpened(**stream, mode="splice")
        case 2:
            return schema.StreamClosed(
                **stream, bytes_from_sandbox=number, bytes_to_sandbox=7, seconds=1
            )
        case _:
            return schema.StreamRefused(peer=f"cid {number}", reason="no lease")


async def _record(store, numbers) -> None:
    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(store.record, event(number))


async def fill(path: Path, events: int) -> str:
    """Make the log; returns the last checkpoint, as another party keeps it.

    The key evolves at each fifth of it but the last one.
    """
    step = events // 10
    async with open_store(path) as store:
        for part in range(10):
            await _record(store, range(part * step, (part + 1) * step))
            if part % 2 and part < 9:
                await store.evolve()
            else:
                await store.checkpoint()
        return await store.checkpoint()


@contextmanager
def opened(path: Path):
    """Open the log with a plain database connection."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    try:
        yield db
    finally:
        db.close()


def report(db, path: Path, *kept: str, **words):
    """Verify; ``kept`` are checkpoints kept elsewhere."""
    against = [("kept", parse_note(note)) for note in kept]
    words.setdefault("keys", KeyFile(path).any())
    return verify(db, against=against, **words)


class Attacker:
    """An attacker who can write the log's file; with ``key`` also the key file.

    Each attack runs inside ``attack``, which takes it back afterwards.
    """

    def __init__(self, db: sqlite3.Connection, key: SigningKey | None) -> None:
        self.db = db
        self.key = key
        self._bodies = [
            body for (body,) in db.execute("SELECT body FROM event ORDER BY sequence")
        ]
        self._trees: dict[int, Growing] = {0: Growing()}
        tree = Growing()
        for body in self._bodies:
            tree.append(leaf_hash(body.encode()))
            if tree.size % BLOCK == 0:
                self._trees[tree.size] = tree.copy()

    def keys(self, path: Path) -> list[SigningKey]:
        """The key's file as he leaves it: a thief of the key writes the size, too."""
        if self.key is None:
            return KeyFile(path).any()
        (size,) = self.db.execute("SELECT count(*) FROM event").fetchone()
        return [replace(self.key, newest=size)]

    def __len__(self) -> int:
        return len(self._bodies)

    @contextmanager
    def attack(self, bodies: Callable[[list[str]], list[str]]):
        """Make the log one of these events, everything beside them fitting."""
        self.db.execute("BEGIN")
        try:
            self._rewrite(bodies(self._bodies.copy()))
            yield
        finally:
            self.db.execute("ROLLBACK")

    def attack_for_good(self, bodies: Callable[[list[str]], list[str]]) -> None:
        """The same, and leave it so."""
        self.db.execute("BEGIN")
        self._rewrite(bodies(self._bodies.copy()))
        self.db.execute("COMMIT")

    def _rewrite(self, bodies: list[str]) -> None:
        same = 0
        for old, new in zip(self._bodies, bodies, strict=False):
            if old != new:
                break
            same += 1
        db = self.db
        db.execute("DELETE FROM event WHERE sequence > ?", (same,))
        block = same // BLOCK
        db.execute("DELETE FROM subtree WHERE number >= ? AND height = 8", (block,))
        tree = self._trees[block * BLOCK].copy()
        for number, old in enumerate(bodies[tree.size :], start=tree.size + 1):
            body = renumbered(old, number)
            if number > same:
                put(db, number, body)
            for done in tree.append(leaf_hash(body.encode())):
                row = (done.height, done.number, done.hash)
                db.execute("INSERT INTO subtree VALUES (?, ?, ?)", row)
        if self.key is not None:
            self._sign(tree)

    def _sign(self, tree: Growing) -> None:
        """Sign the tree with the current key; remove certificates of removed events."""
        assert self.key is not None
        note = Checkpoint(self.key.origin, tree.size, tree.root(), head=True)
        signed = note.signed(self.key.private, self.key.public)
        self.db.execute(
            "DELETE FROM checkpoint WHERE kind IN ('head', 'kept') OR size > ?",
            (tree.size,),
        )
        row = (tree.size, "head", 0, signed)
        self.db.execute("INSERT INTO checkpoint VALUES (?, ?, ?, ?)", row)


def renumbered(body: str, number: int) -> str:
    """The event with another number, as it would have been encoded."""
    event = schema.decode(body)
    if event.sequence == number:
        return body
    return schema.encode(msgspec.structs.replace(event, sequence=number)).decode()


def put(db: sqlite3.Connection, number: int, body: str) -> None:
    """Put an event in a row, with all its columns."""
    row = (*row_of(schema.decode(body)), body, leaf_hash(body.encode()))
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO event VALUES ({marks})", row)


def edited(body: str) -> str:
    """The event with another time: the least that one would change."""
    event = schema.decode(body)
    changed = msgspec.structs.replace(event, time_ns=event.time_ns + 1)
    return schema.encode(changed).decode()
