"""To an OpenTelemetry collector: OTLP/HTTP, logs, protobuf.

The messages are those of opentelemetry-proto (the extra ``fleet``); a record
has the event as its body, byte for byte, its fields as attributes, and an id
that is the same if it has to be sent again (``log.record.uid``).

The shipper in its jail runs it, or ``brokerctl audit ship``.
"""

from __future__ import annotations

import gzip
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from typing_extensions import override

from broker import __version__
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.helpers.shipper.config import OtlpTarget
from broker.helpers.shipper.http_post import HttpEnd
from broker.helpers.shipper.terms import (
    Batch,
    ShippedItem,
    Target,
    is_bad,
    note_id,
    record_id,
)
from broker.ipc.audit.ingest import SignedNote

try:
    from google.protobuf.message import DecodeError
    from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service
    from opentelemetry.proto.common.v1 import common_pb2 as common
    from opentelemetry.proto.logs.v1 import logs_pb2 as logs
except ImportError as _error:  # pragma: no cover -- tested in a process without it
    raise SetupError(
        f"the package {_error.name}, which OTLP requires, is not installed",
        hint="in a checkout run: pipx install --force '.[fleet]'",
    ) from _error

if TYPE_CHECKING:
    from collections.abc import Iterable

_INFO, _WARN = logs.SEVERITY_NUMBER_INFO, logs.SEVERITY_NUMBER_WARN


def encode(batch: Batch) -> bytes:
    """Encode a batch of events as an OTLP request (ExportLogsServiceRequest)."""
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
    """Fill a log record with an event."""
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


def _note(record: logs.LogRecord, batch: Batch, sealed: SignedNote, now: int) -> None:
    """Fill a log record with a checkpoint: its note is the body."""
    record.time_unix_nano = record.observed_time_unix_nano = now
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
    """Convert a value to OTLP's AnyValue."""
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

    waits = True

    def __init__(self, config: OtlpTarget) -> None:
        self._config = config
        example = "https://collector.example:4318/v1/logs"
        self._http = HttpEnd(config, "the collector", example, 4318)

    @override
    def position(self, log: bytes) -> tuple[int, str] | None:
        """A collector cannot be asked."""
        return None

    @override
    def send(self, batch: Batch) -> None:
        """Post a batch to the collector.  Raises UpstreamError."""
        body = encode(batch)
        headers = {
            "Content-Type": "application/x-protobuf",
            "User-Agent": f"vitrail/{__version__}",
            **self._config.headers,
        }
        if self._config.gzip:
            body = gzip.compress(body, compresslevel=5)
            headers["Content-Encoding"] = "gzip"
        status, answer = self._http.ask(
            "POST", self._http.path("/v1/logs"), body, headers
        )
        if status != HTTPStatus.OK:
            self.close()
            said = printable(answer[:200])
            raise UpstreamError(f"the collector answered {status}: {said}")
        _check_whole(answer)

    @override
    def close(self) -> None:
        self._http.close()

    @override
    def interrupt(self) -> None:
        self._http.interrupt()


# A collector that refuses a record stops its receiver. OTLP says that records named in
# `partial_success` must not be sent again. Then the log elsewhere would have an
# unwanted gap. We stop, report it, and send the batch again once the collector has been
# repaired.
def _check_whole(answer: bytes) -> None:
    """Raise UpstreamError if the collector rejected a part of the batch.

    The protocol says not to send such records again; but a log with a hole is
    worth less than a log that waits, so we stand still and say so.
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
