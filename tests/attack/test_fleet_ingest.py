"""One role for all machines: the ingest service believes a log's signatures alone."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from broker.authority.audit.proof import chain
from broker.authority.audit.proof.ed25519 import PrivateKey
from broker.authority.audit.proof.note import Checkpoint, KeyChange
from broker.authority.audit.proof.note import origin_of as note_origin
from broker.authority.audit.store import open_store
from broker.core.errors import IntegrityError, RefusedError, SetupError, UpstreamError
from broker.fleet import proving
from broker.fleet.ingest_database import Credential, IngestStore
from broker.fleet.server import IngestLimits, IngestServer
from broker.helpers.shipper.config import IngestTarget, PostgresTarget
from broker.helpers.shipper.ingest import Ingest
from broker.helpers.shipper.run import ship_once
from broker.helpers.shipper.terms import Batch
from broker.ipc.audit.ingest import SignedBatch, SignedNote
from broker.ipc.audit.tree import leaf_hash
from tests.attack.test_fleet_store import environment
from tests.kit.audit.postgres import Postgres, postgres
from tests.kit.audit.shipping import place, record
from tests.kit.brokerctl import called


class Fleet:
    """A database with its ingest service."""

    def __init__(self, server: Postgres, port: int, directory: Path) -> None:
        self.server, self.port, self.directory = server, port, directory
        self.proved: dict[str, str] = {}

    async def brokerctl(self, *words: str) -> Any:
        words = ("audit", *words, "--store", self.server.address)
        env = environment(self.directory)
        return await trio.to_thread.run_sync(lambda: called(*words, env=env))

    async def token(self, machine: str) -> str:
        answer = await self.brokerctl("fleet", "enrol", machine, "--token")
        assert answer.code == 0, answer.err
        return answer.out.strip()

    def target(self, token: str) -> IngestTarget:
        return IngestTarget("fleet", f"http://127.0.0.1:{self.port}", token=token)

    async def ship(self, log: str, machine: str, token: str) -> Any:
        told: dict = {}
        await ship_once(
            place(self.directory / log, machine), [self.target(token)], told.__setitem__
        )
        return told["fleet"]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with postgres() as server, trio.open_nursery() as nursery:
        made = Fleet(server, 0, tmp_path)
        assert (await made.brokerctl("fleet", "init")).code == 0
        server.run("CREATE ROLE ingest LOGIN IN ROLE vitrail_ingest")
        store = IngestStore(server.as_role("ingest"))
        service = IngestServer(store, IngestLimits())
        made.proved = service._proved
        made.port = await nursery.start(service.serve, "127.0.0.1", 0, None)
        yield made
        nursery.cancel_scope.cancel()
        store.close()


@asynccontextmanager
async def log(directory: Path, count: int = 30) -> AsyncIterator[None]:
    async with open_store(directory / "audit.sqlite") as store:
        for first in range(1, count + 1, 10):
            await record(store, first, 10)
            await store.checkpoint()
    yield


async def test_machines_of_one_role_ship_what_they_have_signed(fleet: Fleet) -> None:
    for machine in ("one", "two"):
        async with log(fleet.directory / machine, 2500 if machine == "one" else 30):
            token = await fleet.token(machine)
            told = await fleet.ship(machine, machine, token)
            assert told in {30, 2500}
    # More of the same log, after a key has changed.
    async with open_store(fleet.directory / "one/audit.sqlite") as store:
        await store.evolve()
        await record(store, 5001, 30)
    told = await fleet.ship("one", "one", await fleet.token("one"))
    assert told == 30
    answer = await fleet.brokerctl("verify", "--json")
    assert answer.code == 0, answer.out
    assert [one["role"] for one in answer.objects] == ["ingest", "ingest"]
    machines = (await fleet.brokerctl("fleet", "machines", "--json")).objects
    assert [(m["machine"], m["events"] > 0) for m in machines] == [
        ("one", True),
        ("two", True),
    ]


async def test_machine_does_not_ship_under_another_ones_name(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with log(fleet.directory / "one"), log(fleet.directory / "two"):
        one, two = await fleet.token("one"), await fleet.token("two")
        assert await fleet.ship("one", "one", one) == 30
        for token in (two, "", "x"):
            (fleet.directory / "two/ship/fleet.json").unlink(missing_ok=True)
            told = await fleet.ship("two", "one", token)
            assert isinstance(told, SetupError)
            assert "not enrolled" in str(told)
        # Its name and token in the request's head, the other one's in the batch.
        with changing(monkeypatch, lambda batch: replace(batch, machine="one")):
            told = await fleet.ship("two", "two", two)
        assert isinstance(told, SetupError)
        assert "not enrolled" in str(told)
        # It has copied the other one's log.
        told = await fleet.ship("one", "two", two)
        assert isinstance(told, SetupError)
        assert "another machine" in str(told)
        # A role of the database does not begin a log under the name, either.
        fleet.server.run(
            "CREATE ROLE desk LOGIN IN ROLE vitrail_machine; GRANT CREATE ON SCHEMA "
            "vitrail TO desk"
        )
        told = {}
        await ship_once(
            place(fleet.directory / "two", "one"),
            [PostgresTarget("pg", fleet.server.as_role("desk"))],
            told.__setitem__,
        )
        assert "another role ships under the name one" in str(told["pg"])
        assert (await fleet.brokerctl("fleet", "enrol", "one", "--revoke")).code == 0
        async with open_store(fleet.directory / "one/audit.sqlite") as store:
            await record(store, 101, 5)
        assert isinstance(await fleet.ship("one", "one", one), SetupError)


class Changing(Ingest):
    """A taken-over machine: it changes its messages."""

    change: Any = None

    def send(self, batch: Batch) -> None:
        super().send(type(self).change(batch))


def edited(batch: Batch) -> Batch:
    items = [replace(i, body=i.body.replace('"', '"', 1) + " ") for i in batch.items]
    return replace(batch, items=items)


CHANGES: dict[str, Any] = {
    "edited": edited,
    "removed middle": lambda b: replace(b, items=[*b.items[:5], *b.items[6:]]),
    "removed prefix": lambda b: replace(b, items=b.items[4:]),
    "added": lambda b: replace(b, items=[*b.items, b.items[-1]]),
    "no proof": lambda b: replace(b, proof=None),
    "a proof without hashes": lambda b: replace(
        b, items=b.items[:7], proof=replace(b.proof, hashes=[])
    ),
    "forged note": lambda b: replace(
        b, proof=replace(b.proof, note=b.proof.note.replace("\n3", "\n4", 1))
    ),
    "no keys": lambda b: replace(b, notes=[], proof=replace(b.proof, keys=[])),
    "another log's name": lambda b: replace(b, log=bytes(16)),
    "20 MB": lambda b: replace(
        b, items=[replace(b.items[0], body="{" + " " * (20 << 20) + "}")]
    ),
}


@contextmanager
def changing(monkeypatch: pytest.MonkeyPatch, change: Any) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(Changing, "change", staticmethod(change))
        patched.setattr("broker.helpers.shipper.ingest.Ingest", Changing)
        yield


async def test_what_the_log_has_not_signed_is_refused(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with log(fleet.directory / "one"):
        token = await fleet.token("one")
        for name, change in CHANGES.items():
            with changing(monkeypatch, change):
                told = await fleet.ship("one", "one", token)
            assert isinstance(told, (SetupError, UpstreamError, IntegrityError)), name
            rows = fleet.server.rows("SELECT count(*) FROM vitrail.event")
            assert rows == [(0,)], name
        assert await fleet.ship("one", "one", token) == 30
        # A batch that comes again is nothing, one that differs from it is a conflict.
        (fleet.directory / "one/ship/fleet.json").unlink()
        with monkeypatch.context() as patched:
            patched.setattr(Ingest, "position", lambda *_: None)
            assert await fleet.ship("one", "one", token) == 30
            (fleet.directory / "one/ship/fleet.json").unlink()
            with changing(monkeypatch, edited):
                told = await fleet.ship("one", "one", token)
        assert isinstance(told, IntegrityError)
        assert fleet.server.rows("SELECT count(*) FROM vitrail.event") == [(30,)]


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Collect the bodies of all batches that are sent, as one on the way reads them."""
    taken: list[bytes] = []
    real = Ingest._ask

    def ask(self: Ingest, method: str, path: str, body: bytes) -> Any:
        if body:
            taken.append(body)
        return real(self, method, path, body)

    with monkeypatch.context() as patched:
        patched.setattr(Ingest, "_ask", ask)
        yield taken


async def test_replayed_batches_change_nothing_and_do_not_feign_life(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone has the batches that a machine sent: an archive, a proxy on the way."""
    state = (
        "SELECT (SELECT count(*) FROM vitrail.event), (SELECT count(*) FROM "
        "vitrail.checkpoint), (SELECT count(*) FROM vitrail.gap), "
        "(SELECT sum(events) FROM vitrail.count), "
        "(SELECT array_agg((sequence, leaf, peaks, heard)::text) FROM vitrail.head)"
    )
    for machine, enrolment in (("one", "--token"), ("two", "--log")):
        directory = fleet.directory / machine
        async with log(directory, 10):
            word = () if enrolment == "--token" else (await origin_of(directory),)
            enrolled = await fleet.brokerctl(
                "fleet", "enrol", machine, enrolment, *word
            )
            assert enrolled.code == 0, enrolled.err
            token = enrolled.out.strip() if enrolment == "--token" else ""
            with recorded(monkeypatch) as batches:
                assert await fleet.ship(machine, machine, token) == 10
                async with open_store(directory / "audit.sqlite") as store:
                    for first in (11, 21):
                        await record(store, first, 10)
                        await store.checkpoint()
                        assert await fleet.ship(machine, machine, token) == 10
        # It is silent now: whoever repeats its words must not make it look alive, nor
        # those that upkeep has removed meanwhile.
        fleet.server.run(
            "UPDATE vitrail.checkpoint SET arrived = date_trunc('hour', now() - "
            "interval '2 days')"
        )
        assert fleet.server.rows("SELECT vitrail.thin_checkpoints() > 0") == [(True,)]
        fleet.server.run("SELECT vitrail.count_events()")
        before, proved = fleet.server.rows(state), dict(fleet.proved)
        assert machine in proved
        attacker = Ingest(fleet.target(""), machine)
        empty = gzip.compress(
            msgspec.json.encode(
                {**msgspec.json.decode(gzip.decompress(batches[-1])), "bodies": []}
            )
        )
        assert len(batches) > 1
        for body in (*batches, *reversed(batches), empty):
            with suppress(SetupError):
                await trio.to_thread.run_sync(attacker._ask, "POST", "/v1/batch", body)
        attacker.close()
        fleet.server.run("SELECT vitrail.count_events()")
        assert fleet.server.rows(state) == before, enrolment
        assert fleet.proved == proved
    assert (await fleet.brokerctl("verify", "--json")).code == 0


async def origin_of(directory: Path) -> str:
    async with open_store(directory / "audit.sqlite") as store:
        return str(store.origin)


async def test_machine_does_not_begin_logs_without_end(fleet: Fleet) -> None:
    token = await fleet.token("one")
    for number in range(17):
        async with log(fleet.directory / str(number), 10):
            told = await fleet.ship(str(number), "one", token)
            assert (told == 10) == (number < 16), told
    assert "logs within a day" in str(told)


async def test_service_survives_what_is_not_http(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # As h11 0.14, which takes a length of any digits.
    monkeypatch.setattr(
        "h11._headers.CONTENT_LENGTH_MAX_DIGITS", 1 << 20, raising=False
    )
    for data in (
        b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: "
        + b"9" * 5000
        + b"\r\n\r\n",
        b"\x16\x03\x01" * 100,
        b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        + b"x" * 100_000,
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000,
        b"POST /v1/batch HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{}}",
    ):
        stream = await trio.open_tcp_stream("127.0.0.1", fleet.port)
        async with stream:
            with trio.move_on_after(5):
                try:
                    await stream.send_all(data)
                    await stream.send_eof()
                    await stream.receive_some()
                except trio.BrokenResourceError:
                    pass
    async with log(fleet.directory / "one"):
        assert await fleet.ship("one", "one", await fleet.token("one")) == 30
    written = capfd.readouterr().err
    assert "a number is too long" in written
    assert "Traceback" not in written


def many_keys(count: int) -> tuple[str, list[SignedNote], list[PrivateKey]]:
    """A log's name, and the certificates of so many keys, all before its first event."""
    keys = [PrivateKey.generate() for _ in range(count)]
    origin = note_origin(keys[0].public())
    notes = []
    for index, key in enumerate(keys):
        signer = keys[max(index - 1, 0)]
        change = KeyChange(index, key.public())
        point = Checkpoint(origin, 0, sha256().digest(), change)
        text = point.signed(signer, signer.public())
        notes.append(SignedNote(0, f"key {index}", text))
    return origin.rpartition("/")[2], notes, keys


async def test_many_keys_of_a_log_are_not_verified_for_each_batch(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches without events take a hundred keys each: 0.2 ms for each of all later ones."""
    name, notes, keys = many_keys(400)
    shown = Credential(await fleet.token("one"))
    store = IngestStore(fleet.server.as_role("ingest"))
    parsed, verified = [], []
    real, real_signed = proving.parse_note, chain.is_signed_by
    monkeypatch.setattr(proving, "parse_note", lambda t: parsed.append(t) or real(t))
    monkeypatch.setattr(
        chain, "is_signed_by", lambda n, key: verified.append(n) or real_signed(n, key)
    )
    for first in range(0, 400, 100):
        batch = SignedBatch(name, "one", notes=notes[first : first + 100])
        await trio.to_thread.run_sync(store.take, batch, shown)
    for more in ([], [kept(name, keys[-1], size) for size in range(1, 51)]):
        parsed.clear()
        verified.clear()
        batch = SignedBatch(name, "one", notes=more)
        await trio.to_thread.run_sync(store.take, batch, shown)
        assert len(parsed) <= 16 + len(more)
        assert len(verified) <= len(more)
    # They are still known: the log continues, and nobody certifies one again.
    for key, size in ((keys[-2], 60), (PrivateKey.generate(), 60)):
        batch = SignedBatch(name, "one", notes=[kept(name, key, size)])
        with pytest.raises(RefusedError, match="no key of this log"):
            await trio.to_thread.run_sync(store.take, batch, shown)
    again = KeyChange(7, keys[0].public())
    forged = Checkpoint(f"vitrail.invalid/audit/{name}", 60, bytes(32), again)
    text = forged.signed(keys[-1], keys[-1].public())
    batch = SignedBatch(name, "one", notes=[SignedNote(60, "key 7", text)])
    with pytest.raises(RefusedError, match="key 400 is missing"):
        await trio.to_thread.run_sync(store.take, batch, shown)
    store.close()


def kept(log: str, key: PrivateKey, size: int) -> SignedNote:
    point = Checkpoint(f"vitrail.invalid/audit/{log}", size, bytes(32))
    return SignedNote(size, "kept", point.signed(key, key.public()))


async def test_without_a_signature_there_is_neither_a_sign_of_life_nor_an_event(
    fleet: Fleet,
) -> None:
    """Who knows the names of a machine and its log, and has no key."""
    name, notes, keys = many_keys(1)
    origin = f"vitrail.invalid/audit/{name}"
    enrolled = await fleet.brokerctl("fleet", "enrol", "one", "--log", origin)
    assert enrolled.code == 0, enrolled.err
    store = IngestStore(fleet.server.as_role("ingest"))

    async def take(**words: Any) -> None:
        batch = SignedBatch(name, "one", **words)
        await trio.to_thread.run_sync(store.take, batch, Credential())

    await take(notes=[*notes, kept(name, keys[0], 0)])
    state = "SELECT sequence, heard FROM vitrail.head"
    before = fleet.server.rows(state)
    with pytest.raises(RefusedError, match="number of an event"):
        await take(first=1 << 61)
    # A certificate of a first key, in the place of the one that proves an event.
    body = '{"sequence": 1, "time_ns": 1, "kind": "x"}'
    change = KeyChange(0, bytes(32))
    point = Checkpoint(origin, 1, leaf_hash(body.encode()), change)
    unsigned = point.signed(PrivateKey.generate(), bytes(32))
    with pytest.raises(RefusedError, match="no key of this log signed the checkpoint"):
        await take(first=1, bodies=[body], proof=unsigned)
    assert fleet.server.rows(state) == before
    store.close()


async def test_no_machine_waits_for_a_connection_that_another_one_has(
    fleet, monkeypatch
):
    """A lost database closes it, and then nobody would ever put it back."""
    store = IngestStore(fleet.server.as_role("ingest"))
    assert store.by_log("desk", Credential()) is None
    monkeypatch.setattr(store._idle, "empty", lambda: False)  # as it was just before
    with store._idle.get(), trio.fail_after(10):
        answer = await trio.to_thread.run_sync(
            store.by_log, "desk", Credential(), abandon_on_cancel=True
        )
    monkeypatch.undo()
    store.close()
    assert answer is None
