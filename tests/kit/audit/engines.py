"""Engines of other projects that keep shipped events: collector, ClickHouse, objects.

From packages that carry their programs (.ci/engines); where they are missing the test
is skipped.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import trio

from broker.helpers.process.spawn import Child, spawn
from tests.kit.eventually import ready

_WANTED = "no {}: pip install --no-deps -r .ci/engines (of 64-bit x86 machines)"

# The columns of the collector's exporter, as it makes them without indexes.
_TABLE = """
    CREATE TABLE IF NOT EXISTS otel_logs (Timestamp DateTime64(9), TraceId String,
        SpanId String, TraceFlags UInt8, SeverityText LowCardinality(String),
        SeverityNumber UInt8, ServiceName LowCardinality(String),
        Body String CODEC(ZSTD(1)), ResourceSchemaUrl LowCardinality(String),
        ResourceAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
        ScopeSchemaUrl LowCardinality(String), ScopeName String,
        ScopeVersion LowCardinality(String),
        ScopeAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
        LogAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)))
    ENGINE = MergeTree ORDER BY (ServiceName, Timestamp)
"""


def package(name: str) -> Path:
    """Where an installed package is; skips the test where it is not."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(_WANTED.format(name))
    return Path(spec.submodule_search_locations[0])


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody has now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@asynccontextmanager
async def _running(
    words: list[str | Path], log: Path, port: int, env: dict[str, str] | None = None
) -> AsyncIterator[Child]:
    """A server, from when it takes connections."""
    with log.open("ab") as output:
        child = spawn(words, stdout=output.fileno(), stderr=output.fileno(), env=env)
    try:
        await ready(child, partial(_connects, port), output=log)
        yield child
    finally:
        await child.kill_and_wait()


class ClickHouse:
    """A ClickHouse with the collector's table, asked over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, sql: str) -> str:
        with urllib.request.urlopen(self.url, sql.encode(), timeout=60) as answer:
            return answer.read().decode()


@asynccontextmanager
async def clickhouse(directory: Path, port: int) -> AsyncIterator[ClickHouse]:
    """The engine, with its data in a directory."""
    package("chdb")
    program = Path(__file__).with_name("clickhouse_http.py")
    words = [sys.executable, program, directory / "clickhouse", str(port)]
    async with _running(words, directory / "clickhouse.log", port):
        server = ClickHouse(f"http://127.0.0.1:{port}/?database=default")
        await trio.to_thread.run_sync(server.ask, _TABLE)
        yield server


@asynccontextmanager
async def collector(directory: Path, url: str) -> AsyncIterator[tuple[str, Child]]:
    """Rotel, an OpenTelemetry collector: takes OTLP, writes into that ClickHouse."""
    program = package("rotel") / "rotel-agent"
    http, grpc = free_ports(2)
    words = [
        *(program, "start", "--otlp-http-endpoint", f"127.0.0.1:{http}"),
        *("--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--exporter", "clickhouse"),
        *("--clickhouse-exporter-endpoint", url.partition("?")[0].rstrip("/")),
        *("--clickhouse-exporter-database", "default"),
        *("--clickhouse-exporter-compression", "none"),
    ]
    async with _running(words, directory / "collector.log", http) as child:
        yield f"http://127.0.0.1:{http}/v1/logs", child


@asynccontextmanager
async def objects(directory: Path) -> AsyncIterator[dict[str, str]]:
    """SeaweedFS's object storage (S3); yields the environment of a client of it."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}:/usr/bin")
    client = shutil.which("aws", path="/usr/bin")
    if program is None:
        pytest.skip(_WANTED.format("weed"))
    if client is None:
        pytest.skip("no client of object storage: apt-get install awscli")
    names = ("master", "volume", "filer", "s3")
    ports = free_ports(2 * len(names))
    words: list[str | Path] = [program, "server", f"-dir={directory}", "-filer", "-s3"]
    for name, port, grpc in zip(names, ports[::2], ports[1::2], strict=True):
        words += [f"-{name}.port={port}", f"-{name}.port.grpc={grpc}"]
    config = directory / "s3.json"
    key = {"accessKey": "collector", "secretKey": "secret-of-a-test"}
    who = {"name": "collector", "credentials": [key], "actions": ["Admin"]}
    config.write_text(json.dumps({"identities": [who]}))
    words += [
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={config}"),
        *("-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=16", "-volume.max=16"),
    ]
    async with _running(words, directory / "objects.log", ports[6]):
        yield {
            "PATH": "/usr/bin:/bin",
            "HOME": str(directory),
            "AWS_ACCESS_KEY_ID": key["accessKey"],
            "AWS_SECRET_ACCESS_KEY": key["secretKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "S3": f"http://127.0.0.1:{ports[6]}",
        }
