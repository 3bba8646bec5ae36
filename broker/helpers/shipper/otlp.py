"""To an OpenTelemetry collector: OTLP/HTTP, logs, protobuf.

The messages are those of opentelemetry-proto (the extra ``fleet``); a record
has the event as its body, byte for byte, its fields as attributes, and an id
that is the same if it has to be sent again (``log.record.uid``).
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import socket
import ssl
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from typing_extensions import override

from broker import __version__
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.core.limits import audit as audit_limits
from broker.helpers.shipper.config import OtlpTarget
from broker.helpers.shipper.terms import (
    Batch,
    Sealed,
    ShippedItem,
    Target,
    is_bad,
    note_id,
    record_id,
)

try:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service
    from opentelemetry.proto.common.v1 import common_pb2 as common
    from opentelemetry.proto.logs.v1 import logs_pb2 as logs
except ImportError as _error:  # pragma: no cover -- tested in a process without it
    raise SetupError(
        f"OTLP needs packages that are not installed ({_error.name})",
        hint="pip install 'vitrail[fleet]'",
    ) from _error

if TYPE_CHECKING:
    from collections.abc import Iterable

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_INFO, _WARN = logs.SEVERITY_NUMBER_INFO, logs.SEVERITY_NUMBER_WARN


def encode(batch: Batch) -> bytes:
    """Return the request for a batch (ExportLogsServiceRequest)."""
    request = service.ExportLogsServiceRequest()
    whole = request.resource_logs.add()
    attributes = {
        "service.name": "vitrail",
        "service.version": __version__,
        "service.instance.id": batch.log.hex(),
        "host.name": batch.machine,
    }
    whole.resource.attributes.extend(_attributes(attributes.items()))
    scope = whole.scope_logs.add()
    scope.scope.name = "vitrail.audit"
    now = time.time_ns()
    for item in batch.items:
        _record(scope.log_records.add(), batch, item, now)
    for sealed in batch.notes:
        _note(scope.log_records.add(), batch, sealed, now)
    return bytes(request.SerializeToString())


def _record(record: logs.LogRecord, batch: Batch, item: ShippedItem, now: int) -> None:
    record.time_unix_nano = max(item.time_ns, 0)
    record.observed_time_unix_nano = now
    bad = is_bad(item)
    record.severity_number = _WARN if bad else _INFO
    record.severity_text = "WARN" if bad else "INFO"
    record.event_name = f"vitrail.{item.kind}"
    record.body.string_value = item.body
    record.attributes.extend(
        _attributes(
            [
                ("log.record.uid", record_id(batch.log, item.sequence)),
                *((f"vitrail.{name}", value) for name, value in item.fields.items()),
            ]
        )
    )


def _note(record: logs.LogRecord, batch: Batch, sealed: Sealed, now: int) -> None:
    """A checkpoint: its note is the record's body."""
    record.observed_time_unix_nano = now
    record.severity_number, record.severity_text = _INFO, "INFO"
    record.event_name = "vitrail.audit.checkpoint"
    record.body.string_value = sealed.note
    record.attributes.extend(
        _attributes(
            [
                ("log.record.uid", note_id(batch.log, sealed)),
                ("vitrail.kind", "audit.checkpoint"),
                ("vitrail.size", sealed.size),
            ]
        )
    )


def _attributes(fields: Iterable[tuple[str, object]]) -> list[common.KeyValue]:
    return [
        common.KeyValue(key=name, value=_value(value))
        for name, value in fields
        if value is not None
    ]


def _value(value: object) -> common.AnyValue:
    if isinstance(value, bool):
        return common.AnyValue(bool_value=value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return common.AnyValue(int_value=value)
    if isinstance(value, float):
        return common.AnyValue(double_value=value)
    if isinstance(value, list):
        array = common.ArrayValue(values=[_value(one) for one in value])
        return common.AnyValue(array_value=array)
    if isinstance(value, dict):
        pairs = common.KeyValueList(values=_attributes(value.items()))
        return common.AnyValue(kvlist_value=pairs)
    return common.AnyValue(string_value=str(value))


class Otlp(Target):
    """A collector."""

    def __init__(self, config: OtlpTarget) -> None:
        self._config = config
        self._parts = urlsplit(config.endpoint)
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._cut = False
        if self._parts.scheme not in {"http", "https"} or not self._parts.hostname:
            raise SetupError(
                f"target {config.name}: no http(s) address: {config.where()}",
                hint="for example https://collector.example:4318/v1/logs",
            )
        near = self._parts.hostname in _LOOPBACK
        if self._parts.scheme == "http" and not (near or config.plaintext):
            raise SetupError(
                f"target {config.name}: http:// to another machine can be read and "
                "changed on its way",
                hint="use https://, or say plaintext = true where the network is yours",
            )

    @override
    def position(self, log: bytes) -> tuple[int, str] | None:
        """A collector cannot be asked."""
        return None

    @override
    def send(self, batch: Batch) -> None:
        body = encode(batch)
        headers = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": f"vitrail/{__version__}",
            **self._config.headers,
        }
        if self._config.gzip:
            body = gzip.compress(body, compresslevel=5)
            headers["Content-Encoding"] = "gzip"
        try:
            status, answer = self._post(body, headers)
        except UpstreamError:
            self.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UpstreamError(
                f"the collector cannot be reached: {printable(str(error)) or type(error).__name__}",
                hint=f"is something there at {self._config.where()}?",
            ) from error
        if status != http.client.OK:
            self.close()
            said = printable(answer[:200])
            raise UpstreamError(f"the collector answers {status}: {said}")
        _check_whole(answer)

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        path = self._parts.path or "/v1/logs"
        if self._parts.query:
            path += f"?{self._parts.query}"
        fresh = self._connection is None
        connection = self._connection or self._connect()
        self._connection = connection
        try:
            if fresh:
                connection.connect()
                # An answer may live longer than its connection.
                self._socket, self._cut = connection.sock, False
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self.close()
            if fresh:
                raise
            # It had grown tired of an idle connection: that is not an error.
            return self._post(body, headers)
        with response:  # one that ends with its connection is not the connection's
            answer = response.read(audit_limits.SHIP_REPLY_BYTES + 1)
        if len(answer) > audit_limits.SHIP_REPLY_BYTES:
            raise UpstreamError(
                f"the collector's answer is longer than {audit_limits.SHIP_REPLY_BYTES} bytes"
            )
        # Its beginning could be an answer too, one that says that all is well.
        if response.length or self._cut:
            raise UpstreamError("the collector's answer was cut off")
        return response.status, answer

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        seconds = audit_limits.SHIP_SECONDS
        if self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port or 4318, timeout=seconds)
        try:
            context = ssl.create_default_context(cafile=self._config.ca or None)
            if self._config.certificate:
                context.load_cert_chain(
                    self._config.certificate, self._config.key or None
                )
        except (OSError, ssl.SSLError) as error:
            raise SetupError(
                f"target {self._config.name}: its certificates cannot be read: {error}"
            ) from error
        return http.client.HTTPSConnection(
            host, port or 443, timeout=seconds, context=context
        )

    @override
    def close(self) -> None:
        self._socket = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @override
    def interrupt(self) -> None:
        sock = self._socket
        if sock is not None:
            self._cut = True
            # Not the TLS socket's own way, which would read on without TLS.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _check_whole(answer: bytes) -> None:
    """Refuse an answer that says that a part was not taken.

    The protocol says not to send such records again; but a log with a hole is
    worth less than one that waits, so we stand still and say so.
    """
    try:
        response = service.ExportLogsServiceResponse.FromString(answer)
    except DecodeError as error:
        raise UpstreamError("the collector's answer is not OTLP") from error
    part = response.partial_success
    if part.rejected_log_records:
        raise UpstreamError(
            f"the collector refused {part.rejected_log_records} events: "
            f"{printable(part.error_message, 200)}"
        )
