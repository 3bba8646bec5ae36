"""Archives of other receivers: what a collector and ClickHouse make of shipped events.

The records are those that the product sent to an OTLP endpoint, written as the
collector's file exporter writes them (OTLP in JSON) and as ClickHouse's exporter keeps
them (a row with Body, LogAttributes and ResourceAttributes).
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service

from broker.authority.audit.store import open_store
from broker.helpers.shipper.config import OtlpTarget
from broker.helpers.shipper.run import ship_once
from tests.attack.test_fleet_store import environment
from tests.kit.audit.shipping import place, record
from tests.kit.brokerctl import Answer, called


@pytest.fixture
def collected() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An OTLP endpoint, and the requests that it was sent."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            requests.append(
                MessageToDict(service.ExportLogsServiceRequest.FromString(body))
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_address[1]}/v1/logs", requests
    http.shutdown()
    http.server_close()


def _text(value: dict[str, Any]) -> str:
    return str(next(iter(value.values()), ""))


def rows_of(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """ClickHouse's rows (FORMAT JSONEachRow of otel_logs)."""
    return [
        {
            "ServiceName": "vitrail",
            "Body": _text(record["body"]),
            "ResourceAttributes": {
                one["key"]: _text(one["value"])
                for one in resource["resource"]["attributes"]
            },
            "LogAttributes": {
                one["key"]: _text(one["value"]) for one in record["attributes"]
            },
        }
        for request in requests
        for resource in request["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]


async def test_what_others_have_kept_is_proved(
    tmp_path: Path, collected: tuple[str, list[dict[str, Any]]]
) -> None:
    endpoint, requests = collected
    for machine in ("one", "two"):
        async with open_store(tmp_path / machine / "audit.sqlite") as store:
            for first in (1, 11, 21):
                await record(store, first, 10)
                await store.checkpoint()
        told: dict[str, Any] = {}
        await ship_once(
            place(tmp_path / machine, machine),
            [OtlpTarget("collector", endpoint)],
            told.__setitem__,
        )
        assert told == {"collector": 30}
    env = environment(tmp_path)

    def verify(lines: list[dict[str, Any]]) -> Answer:
        archive = tmp_path / "archive"
        archive.mkdir(exist_ok=True)
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        with gzip.open(archive / "a.gz", "wt") as packed:
            packed.write(text)
        return called("audit", "verify", "--json", "--store", str(archive), env=env)

    rows = rows_of(requests)
    for shape, lines in (("file exporter", requests), ("ClickHouse", rows)):
        # In another order, and some of it twice, as after a lost answer.
        answer = verify([*reversed(lines), *lines[:3]])
        assert answer.code == 0, f"{shape}: {answer.out} {answer.err}"
        assert [
            (one["machine"], one["checked"], one["checkpoints"] >= 3)
            for one in answer.objects
        ] == [("one", 30, True), ("two", 30, True)], shape
    events = [
        number
        for number, row in enumerate(rows)
        if row["LogAttributes"].get("vitrail.sequence", "0") != "0"
    ]
    assert len(events) >= 60
    # One that is gone, one that was changed, and one in another's place.
    without = verify([row for n, row in enumerate(rows) if n != events[7]])
    assert without.code == 3
    changed = [{**row} for row in rows]
    changed[events[7]]["Body"] = changed[events[7]]["Body"] + " "
    assert verify(changed).code == 3
    swapped = [{**row} for row in rows]
    swapped[events[7]]["Body"] = rows[events[8]]["Body"]
    assert verify(swapped).code == 3
    # A checkpoint that cannot be read is a problem of its log alone.
    spoilt = [{**row} for row in rows]
    for row in spoilt:
        whose = row["ResourceAttributes"]["host.name"]
        if whose == "one" and "vitrail.size" in row["LogAttributes"]:
            row["Body"] = row["Body"].replace("=\n", "\n")
    answer = verify(spoilt)
    assert answer.code == 3, answer
    assert [one["good"] for one in answer.objects] == [False, True]


def test_line_that_does_not_end_is_refused(tmp_path: Path) -> None:
    """A few kilobytes of gzip are more than the memory."""
    with gzip.open(tmp_path / "a.gz", "wb", compresslevel=1) as packed:
        for _ in range(65):
            packed.write(b" " * (1 << 20))
    answer = called(
        *("audit", "verify", "--store", str(tmp_path)), env=environment(tmp_path)
    )
    assert answer.code != 0
    assert "more than" in answer.err
