"""An OTLP/HTTP endpoint in a separate process, made from the protocol's messages.

    python -m tests.kit.audit.otlp PORT FILE [MOOD]

Every record that it takes is a line of JSON in FILE, flushed before the answer.
A MOOD is how it fails: ``before N`` dies when the Nth request begins, ``middle
N`` in the middle of reading it, ``after N`` when it is stored and not yet
answered; ``busy N`` answers 503 to the first N, ``partial`` refuses a record,
``hang`` never answers, ``nonsense`` answers with malformed OTLP.
"""

from __future__ import annotations

import gzip
import http.server
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service

from broker.helpers.process.spawn import Child, spawn
from tests.kit.eventually import ready

ROOT = Path(__file__).parents[3]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    file: str
    mood: str = ""
    number: int = 0
    seen = 0

    def do_POST(self) -> None:
        cls = type(self)
        cls.seen += 1
        mood = self.mood if cls.seen == self.number else ""
        if mood == "before":
            os._exit(9)
        length = int(self.headers["Content-Length"])
        if mood == "middle":
            self.rfile.read(length // 2)
            os._exit(9)
        body = self.rfile.read(length)
        if self.mood == "busy" and cls.seen <= self.number:
            self.answer(503, b"later")
            return
        if self.mood == "hang":
            self.rfile.read(1)
            return
        assert self.path == "/v1/logs"
        assert self.headers["Content-Type"] == "application/x-protobuf"
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        request = service.ExportLogsServiceRequest.FromString(body)
        if self.mood == "partial":
            response = service.ExportLogsServiceResponse()
            response.partial_success.rejected_log_records = 1
            response.partial_success.error_message = "too \x1b[31mlarge"
            self.answer(200, response.SerializeToString())
            return
        self.store(request)
        if mood == "after":
            os._exit(9)
        if self.mood == "nonsense":
            self.answer(200, b"\xff\xff\xff<html>")
            return
        self.answer(200, service.ExportLogsServiceResponse().SerializeToString())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def store(self, request: service.ExportLogsServiceRequest) -> None:
        with open(self.file, "a") as out:
            for whole in request.resource_logs:
                resource = plain(whole.resource.attributes)
                for scope in whole.scope_logs:
                    for record in scope.log_records:
                        line = {
                            "resource": resource,
                            "scope": scope.scope.name,
                            "event": record.event_name,
                            "time": record.time_unix_nano,
                            "severity": record.severity_text,
                            "body": record.body.string_value,
                            "attributes": plain(record.attributes),
                            "headers": {"authorization": self.headers["Authorization"]},
                        }
                        out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())

    def log_message(self, *_words: object) -> None:
        """Not on the tests' terminal."""


def plain(attributes) -> dict[str, object]:
    return {pair.key: value(pair.value) for pair in attributes}


def value(any_value) -> object:
    which = any_value.WhichOneof("value")
    inner = getattr(any_value, which)
    if which == "array_value":
        return [value(one) for one in inner.values]
    return plain(inner.values) if which == "kvlist_value" else inner


class Collector:
    """One that can be killed and started again on the same port."""

    def __init__(self, file: Path) -> None:
        self._file = file
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}/v1/logs"
        self.child: Child | None = None

    async def start(self, *mood: str) -> None:
        if self.child is not None:
            await self.kill()
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        argv = [
            sys.executable,
            "-m",
            "tests.kit.audit.otlp",
            str(self.port),
            str(self._file),
        ]
        self.child = spawn([*argv, *mood], env=env, cwd=ROOT)
        await ready(self.child, self._answers)

    async def _answers(self) -> bool:
        try:
            (await trio.open_tcp_stream("127.0.0.1", self.port)).socket.close()
        except OSError:
            return False
        return True

    async def kill(self) -> None:
        assert self.child is not None
        self.child.kill()
        with trio.CancelScope(shield=True):
            await self.child.wait()

    def records(self) -> list[dict]:
        """The events that it has stored."""
        return [r for r in self.stored() if r["event"] != "vitrail.audit.checkpoint"]

    def stored(self) -> list[dict]:
        """All records; a line that it died in does not count."""
        if not self._file.exists():
            return []
        whole = self._file.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]


@asynccontextmanager
async def collector(file: Path) -> AsyncIterator[Collector]:
    made = Collector(file)
    try:
        yield made
    finally:
        if made.child is not None and made.child.returncode is None:
            await made.kill()


def main() -> None:
    Handler.file = sys.argv[2]
    if len(sys.argv) > 3:
        Handler.mood = sys.argv[3]
        Handler.number = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
