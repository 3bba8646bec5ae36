"""The ingest service on a network: TLS, certificates, memory."""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.core.errors import SetupError, UpstreamError
from broker.fleet.ingest_database import IngestStore
from broker.fleet.server import IngestLimits, IngestServer, server_context
from broker.helpers.process.spawn import spawn
from broker.helpers.shipper.config import IngestTarget
from broker.helpers.shipper.run import ship_once
from tests.attack.test_fleet_ingest import Fleet, fleet, log
from tests.kit.audit.shipping import place
from tests.kit.brokerctl import Answer, called, home, paths_of
from tests.kit.eventually import ready

__all__ = ["fleet"]


class Authority:
    """Signs certificates; the server's and the machines' are in PEM files."""

    def __init__(self, directory: Path, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._directory = directory
        self._write(name, self._made(self._name, self._key, name, ca=True), self._key)

    def certificate(self, name: str, file: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whoever")])
        self._write(file, self._made(subject, key, name, ca=False), key)
        return str(self._directory / f"{file}.pem"), str(
            self._directory / f"{file}.key"
        )

    def _made(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, dns: str, *, ca: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), False)
            .add_extension(
                x509.BasicConstraints(ca=ca, path_length=None), critical=True
            )
            .sign(self._key, hashes.SHA256())
        )

    def _write(
        self, file: str, made: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        pem = serialization.Encoding.PEM
        (self._directory / f"{file}.pem").write_bytes(made.public_bytes(pem))
        (self._directory / f"{file}.key").write_bytes(
            key.private_bytes(
                pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


@asynccontextmanager
async def serving(
    fleet: Fleet, context: ssl.SSLContext | None, limits: IngestLimits
) -> AsyncIterator[int]:
    store = IngestStore(fleet.server.as_role("ingest"))
    async with trio.open_nursery() as nursery:
        service = IngestServer(store, limits)
        yield await nursery.start(service.serve, "127.0.0.1", 0, context)
        nursery.cancel_scope.cancel()
    store.close()


async def test_machines_are_known_by_their_certificates(
    fleet: Fleet, tmp_path: Path
) -> None:
    ours, others = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    context = server_context(
        *ours.certificate("localhost", "server"), str(tmp_path / "ca.pem")
    )
    enrolled = await fleet.brokerctl(
        "fleet", "enrol", "one", "--certificate", "one.example"
    )
    assert enrolled.code == 0, enrolled.err
    token = await fleet.token("two")
    pairs = {
        "own": ours.certificate("one.example", "own"),
        "another machine": ours.certificate("two.example", "two"),
        "another authority's": others.certificate("one.example", "forged"),
        "none": ("", ""),
    }
    async with (
        serving(fleet, context, IngestLimits()) as port,
        log(tmp_path / "one"),
        log(tmp_path / "two"),
    ):

        async def ship(machine: str, **words: Any) -> Any:
            told: dict[str, Any] = {}
            target = IngestTarget(
                "fleet", f"https://localhost:{port}", ca=str(tmp_path / "ca.pem")
            )
            target = msgspec.structs.replace(target, **words)
            await ship_once(
                place(tmp_path / machine, machine), [target], told.__setitem__
            )
            return told["fleet"]

        for whose, (certificate, key) in pairs.items():
            told = await ship("one", certificate=certificate, key=key)
            if whose == "own":
                assert told == 30
                (tmp_path / "one/ship/fleet.json").unlink()
            else:
                assert isinstance(told, SetupError | UpstreamError), whose
        # A token does without one, over TLS as well; and not for another machine.
        assert isinstance(await ship("one", token=token), SetupError)
        # A server of another authority is not given the token.
        told = await ship("two", token=token, ca=str(tmp_path / "other.pem"))
        assert isinstance(told, UpstreamError)
        assert "certificate" in str(told).lower()
        assert await ship("two", token=token) == 30
        # Nor is a token sent in clear to another machine, whoever says it is the one.
        told = await ship("two", token=token, endpoint="http://ingest.example:4319")
        assert isinstance(told, SetupError)
    rows = fleet.server.rows("SELECT machine, sequence FROM vitrail.head JOIN vitrail.log ON id = log ORDER BY 1")  # fmt: skip
    assert rows == [("one", 30), ("two", 30)]


async def test_tls_of_before_is_refused(fleet: Fleet, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ca")
    context = server_context(*ours.certificate("localhost", "server"), "")
    async with serving(fleet, context, IngestLimits()) as port:
        client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        stream = await trio.open_ssl_over_tcp_stream(
            "localhost", port, ssl_context=client
        )
        with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)


def _head(machine: str, token: str, length: int) -> bytes:
    return (
        f"POST /v1/batch HTTP/1.1\r\nHost: x\r\nVitrail-Machine: {machine}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


async def test_long_bodies_of_strangers_are_not_kept(fleet: Fleet) -> None:
    """2,000 connections with a body of 8 MiB each, sent slowly, would be 16 GiB."""
    token, other = await fleet.token("one"), await fleet.token("two")
    async with (
        serving(fleet, None, IngestLimits(long_bodies=5)) as port,
        AsyncExitStack() as stack,
    ):

        async def begin(machine: str, shown: str, length: int) -> trio.SocketStream:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stack.enter_async_context(stream)
            await stream.send_all(_head(machine, shown, length) + b"x" * (128 << 10))
            return stream

        with trio.fail_after(120):
            for machine, shown in (("one", "x"), ("three", token), ("one", "")):
                stream = await begin(machine, shown, 128 << 10)
                answer = b""
                while not answer.endswith(b"}"):
                    answer += bytes(await stream.receive_some())
                assert answer.startswith(b"HTTP/1.1 403 ")
                assert b"not enrolled" in answer
            # An enrolled one may hold some of the places there are; the others continue.
            for _ in range(5):
                await begin("one", token, 4 << 20)
            async with log(fleet.directory / "two"):
                told: dict[str, Any] = {}
                target = IngestTarget("fleet", f"http://127.0.0.1:{port}", token=other)
                await ship_once(
                    place(fleet.directory / "two", "two"), [target], told.__setitem__
                )
                assert told == {"fleet": 30}


async def test_programs_themselves_speak_tls_and_a_log_is_enrolled_by_its_name(
    fleet: Fleet, tmp_path: Path
) -> None:
    """'vitrail-ingest' and 'brokerctl audit ship', as an administrator runs them."""
    ours = Authority(tmp_path, "ca")
    certificate, key = ours.certificate("localhost", "server")
    output = tmp_path / "ingest.out"
    store = ("--store", fleet.server.as_role("ingest"), "--port", "0")
    program = [sys.executable, "-m", "broker.programs.ingest", *store]
    clear = await trio.run_process(
        [*program, "--listen", "0.0.0.0"], check=False, capture_stderr=True
    )
    assert clear.returncode == 2
    assert b"needs --certificate" in clear.stderr
    with home() as env, output.open("wb") as file:
        child = spawn(
            [*program, "--certificate", certificate, "--key", key],
            stdout=file.fileno(),
            stderr=file.fileno(),
        )
        try:
            await ready(
                child, lambda: "listening on" in output.read_text(), output=output
            )
            port = int(output.read_text().split()[-1])
            paths = paths_of(env)
            async with log(paths.state):
                pass
            paths.config[0].mkdir(parents=True)
            config = paths.config[0] / "ship.toml"
            config.write_text(
                'machine = "one"\n[[target]]\nname = "fleet"\nto = "ingest"\n'
                f'endpoint = "https://localhost:{port}"\nca = "{tmp_path}/ca.pem"\n'
            )
            config.chmod(0o600)

            async def brokerctl(*words: str) -> Answer:
                return await trio.to_thread.run_sync(lambda: called(*words, env=env))

            stranger = await brokerctl("audit", "ship", "--once")
            assert stranger.code != 0
            assert "not enrolled" in stranger.err
            own = await brokerctl("audit", "verify", "--json")
            origin = own.objects[0]["origin"]
            enrolled = await fleet.brokerctl("fleet", "enrol", "one", "--log", origin)
            assert enrolled.code == 0, enrolled.err
            shipped = await brokerctl("audit", "ship", "--once", "--json")
            assert shipped.objects == [{"fleet": {"events": 30}}], shipped.err
            # Another log under that name is not taken.
            async with log(fleet.directory / "other"):
                told: dict[str, Any] = {}
                target = IngestTarget(
                    "fleet", f"https://localhost:{port}", ca=str(tmp_path / "ca.pem")
                )
                await ship_once(
                    place(fleet.directory / "other", "one"), [target], told.__setitem__
                )
                assert isinstance(told["fleet"], SetupError)
        finally:
            child.kill_now()
    assert (await fleet.brokerctl("verify")).code == 0
