"""Shipping to a real OTLP/HTTP endpoint that dies at the worst moments."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.authority.audit.store import open_store
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper import otlp
from broker.helpers.shipper.config import JsonlTarget, OtlpTarget
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.run import ship_for_ever, ship_once
from tests.kit.audit.otlp import Collector, collector
from tests.kit.audit.shipping import bodies, filled, place, record
from tests.kit.eventually import eventually


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Collector]:
    async with collector(tmp_path / "stored.jsonl") as made:
        yield made


def target(server: Collector, **words: object) -> OtlpTarget:
    return OtlpTarget("collector", server.endpoint, **words)


async def ship(directory: Path, *targets) -> dict:
    told: dict[str, int | VitrailError] = {}
    await ship_once(place(directory), targets, told.__setitem__)
    return told


@asynccontextmanager
async def hostile(
    handler: Callable[..., Awaitable[None]], context: ssl.SSLContext | None = None
) -> AsyncIterator[OtlpTarget]:
    """A collector of this process, which says what ``handler`` says."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        address = f"http://127.0.0.1:{port}/v1/logs"
        serving: trio.abc.Listener[trio.abc.Stream] = listener
        if context is not None:
            address = f"https://localhost:{port}/v1/logs"
            serving = trio.SSLListener(listener, context)
        await nursery.start(trio.serve_listeners, handler, [serving])
        with trio.fail_after(60):
            yield OtlpTarget("collector", address)
        nursery.cancel_scope.cancel()


async def delivered(directory: Path, count: int) -> None:
    """Wait until so many events are known to be delivered."""
    await eventually(
        lambda: load_cursor(directory / "ship", "collector").sequence >= count
    )


async def test_a_record_has_all_of_the_event(tmp_path: Path, server: Collector) -> None:
    await filled(tmp_path, 30)
    await server.start()
    headers = {"Authorization": "Bearer xyzzy"}
    assert await ship(tmp_path, target(server, headers=headers)) == {"collector": 30}
    stored = server.records()
    assert [r["body"] for r in stored] == bodies(tmp_path)
    for one in stored:
        event = json.loads(one["body"])
        assert one["time"] == event["time_ns"]
        assert one["event"] == f"vitrail.{event['kind']}"
        assert one["scope"] == "vitrail.audit"
        assert one["headers"]["authorization"] == "Bearer xyzzy"
        resource = one["resource"]
        assert resource["service.name"] == "vitrail"
        assert resource["host.name"] == "desk"
        attributes = dict(one["attributes"])
        attributes.pop("log.record.uid")
        assert attributes == {f"vitrail.{name}": v for name, v in event.items()}
        denied = event.get("verdict") == "deny"
        assert one["severity"] == ("WARN" if denied else "INFO")


@pytest.mark.parametrize(
    ("mood", "doubled"),
    [
        pytest.param("before", 0, marks=pytest.mark.long),
        ("middle", 0),
        ("after", 1),
    ],
)
async def test_a_collector_that_dies_in_the_middle_loses_and_doubles_nothing(
    tmp_path: Path, server: Collector, mood: str, doubled: int
) -> None:
    """Died before its answer, it has a batch again, under the same record ids."""
    stop = trio.Event()
    await server.start(mood, "2")
    async with (
        open_store(tmp_path / "audit.sqlite") as store,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ship_for_ever, place(tmp_path), [target(server)], stop)
        nursery.start_soon(record, store, 1, 2500)
        assert server.child is not None
        with trio.fail_after(60):
            assert await server.child.wait() == 9
        await record(store, 2501, 500)
        await server.start(mood, "2")
        with trio.fail_after(60):
            await server.child.wait()
            await server.start()
        await delivered(tmp_path, 3000)
        stop.set()
    by_id: dict[str, set[str]] = {}
    for one in server.records():
        by_id.setdefault(one["attributes"]["log.record.uid"], set()).add(one["body"])
    # Each id is one event, each event has one id: taken once by its id, the log.
    assert all(len(same) == 1 for same in by_id.values())
    assert [body for (body,) in by_id.values()] == bodies(tmp_path)
    extra = len(server.records()) - 3000
    assert (extra > 0) == bool(doubled)
    assert extra <= 2 * audit_limits.SHIP_BATCH_EVENTS
    assert load_cursor(tmp_path / "ship", "collector").sequence == 3000


async def test_a_busy_collector_gets_it_later(
    tmp_path: Path, server: Collector
) -> None:
    await filled(tmp_path, 10)
    await server.start("busy", "1")
    told = (await ship(tmp_path, target(server)))["collector"]
    assert isinstance(told, UpstreamError)
    assert "503" in str(told)
    assert await ship(tmp_path, target(server)) == {"collector": 10}


@pytest.mark.parametrize(
    ("mood", "said"),
    [("partial", "refused 1 events: too \\x1b"), ("nonsense", "not OTLP")],
)
async def test_an_answer_that_is_not_whole_moves_nothing(
    tmp_path: Path, server: Collector, mood: str, said: str
) -> None:
    await filled(tmp_path, 10)
    await server.start(mood)
    told = (await ship(tmp_path, target(server)))["collector"]
    assert isinstance(told, UpstreamError)
    assert said in str(told)
    assert load_cursor(tmp_path / "ship", "collector").sequence == 0


async def test_one_that_hangs_is_given_up_and_holds_up_no_other_receiver(
    tmp_path: Path, server: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(tmp_path, 10)
    await server.start("hang")
    other = JsonlTarget("file", str(tmp_path / "out.jsonl"))
    with monkeypatch.context() as patch, trio.fail_after(30):
        # The file's time as well.
        patch.setattr(audit_limits, "SHIP_SECONDS", 3.0)
        told = await ship(tmp_path, target(server), other)
    assert told["file"] == 10
    assert isinstance(told["collector"], UpstreamError)
    await server.start()
    assert await ship(tmp_path, target(server)) == {"collector": 10}


async def test_a_large_answer_is_not_read(tmp_path: Path) -> None:
    """A receiver that talks for ever is left."""

    async def talk(stream: trio.SocketStream) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"
        try:
            await stream.send_all(head)
            while True:
                await stream.send_all(b"x" * 65536)
        except trio.BrokenResourceError:
            return

    await filled(tmp_path, 3)
    async with hostile(talk) as config:
        told = (await ship(tmp_path, config))["collector"]
        assert isinstance(told, UpstreamError)


@pytest.mark.parametrize("closes", ["", "Connection: close\r\n"])
async def test_one_that_answers_a_byte_at_a_time_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closes: str
) -> None:
    """Each byte comes in time, the whole answer never does: that must be reported."""
    monkeypatch.setattr(audit_limits, "SHIP_STEP_SECONDS", 1.0)

    async def drip(stream: trio.SocketStream) -> None:
        head = f"HTTP/1.1 200 OK\r\n{closes}Content-Length: 60000\r\n\r\n"
        try:
            await stream.send_all(head.encode())
            while True:
                await stream.send_all(b"x")
                await trio.sleep(0.1)
        except trio.BrokenResourceError:
            return

    await filled(tmp_path, 3)
    async with hostile(drip) as config:
        told = (await ship(tmp_path, config))["collector"]
        assert isinstance(told, UpstreamError)
        assert "did not accept a batch within 1 s" in str(told)


async def test_an_answer_that_is_cut_off_is_none(tmp_path: Path) -> None:
    """An empty message means that all was taken, and every message begins so."""

    async def cut(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        await stream.aclose()

    await filled(tmp_path, 3)
    async with hostile(cut) as config:
        told = (await ship(tmp_path, config))["collector"]
        assert isinstance(told, UpstreamError), told
    assert load_cursor(tmp_path / "ship", "collector").sequence == 0


async def test_plain_http_stays_on_this_machine() -> None:
    for endpoint in ("http://collector.example:4318/v1/logs", "ftp://x/", "collector"):
        with pytest.raises(SetupError):
            otlp.Otlp(OtlpTarget("x", endpoint))
    otlp.Otlp(OtlpTarget("x", "http://collector.example/v1/logs", plaintext=True))
    otlp.Otlp(OtlpTarget("x", "http://[::1]:4318/v1/logs"))


def certificate(directory: Path, name: str) -> None:
    """One for localhost, signed by itself, with its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / f"{name}.pem").write_bytes(made.public_bytes(pem))
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def test_tls_believes_only_the_given_authority(
    tmp_path: Path,
) -> None:
    certificate(tmp_path, "ca")
    certificate(tmp_path, "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "ca.key")
    await filled(tmp_path, 3)

    async def answer(stream: trio.SSLStream) -> None:
        try:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive_some(65536)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except trio.BrokenResourceError:
            return

    async with hostile(answer, context) as endpoint:
        bad = msgspec.structs.replace(endpoint, ca=str(tmp_path / "other.pem"))
        told = (await ship(tmp_path, bad))["collector"]
        assert isinstance(told, UpstreamError)
        assert "certificate" in str(told).lower()
        good = msgspec.structs.replace(endpoint, ca=str(tmp_path / "ca.pem"))
        assert await ship(tmp_path, good) == {"collector": 3}
