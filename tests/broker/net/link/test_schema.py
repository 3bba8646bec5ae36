"""The version of the link changes with its messages.

Two ends of one version and different messages connect, lose the link at the first message
that one of them does not know, and connect again.
"""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest

from broker.ipc.host_rows import StopSandbox
from broker.net.link import wire_types
from broker.net.link.link_rows import LINK_ROWS, STATUS, Bye, StatusReply
from broker.wire.call_messages import WireMessage
from broker.wire.row import Empty, ProcessKind, Row

SCHEMAS = {
    4: "cc206e9ecfd62750e7ca729bf820f71fcf4a78c4e0516f69520b2dee2d42aaa2",
}
"""The digest of the messages of each version that was released, and of today's."""

REPORTS = {
    "Bye": set(),
    "DeviceEnded": set(),
    "StartProgress": set(),
    "StatusReply": {"warnings", "clock"},
}
"""The optional fields of the messages whose unknown fields are ignored, in this version."""


def _without_texts(value):
    """Leave out what changes no byte of a message: names and texts for readers."""
    if isinstance(value, dict):
        return {
            key: _without_texts(one)
            for key, one in value.items()
            if key not in {"title", "description"}
        }
    if isinstance(value, float):
        # Annotated remembers equal bounds: whether one is 60 or 60.0 is a matter of what
        # was imported first.
        return int(value) if value.is_integer() else value
    return [_without_texts(one) for one in value] if isinstance(value, list) else value


def _reports(components):
    return {
        name: component
        for name, component in components.items()
        if component.get("type") == "object" and "additionalProperties" not in component
    }


def _without_later_fields(components):
    """Leave out the optional fields that a report got since: an older end ignores them."""
    for name, report in _reports(components).items():
        kept = {"type", *report["required"], *REPORTS.get(name, ())}
        report["properties"] = {
            key: value for key, value in report["properties"].items() if key in kept
        }
    return components


def components(rows):
    """The schemas of all messages of these rows, and of the wire itself."""
    types = {WireMessage}
    for row in rows.values():
        types |= {row.request, row.answer, row.item}
    types.discard(None)
    return msgspec.json.schema_components(sorted(types, key=str))[1]


def digest(rows=LINK_ROWS):
    forms = [
        wire_types.HEADER.format,
        [door.value.decode() for door in wire_types.ConnectionKind],
        sorted(
            [
                row.name,
                row.request.__name__,
                row.answer and row.answer.__name__,
                row.item and row.item.__name__,
                sorted(row.of),
                sorted(row.by),
            ]
            for row in rows.values()
        ),
    ]
    schema = _without_texts(_without_later_fields(components(rows)))
    whole = json.dumps([schema, forms], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def test_other_messages_have_another_version():
    """Mend by a higher VERSION in wire_types.py, and its digest here."""
    assert max(SCHEMAS) == wire_types.VERSION
    assert digest() == SCHEMAS[wire_types.VERSION]


def test_only_reports_may_have_unknown_fields():
    """What orders something must be obeyed whole or refused."""
    assert set(_reports(components(LINK_ROWS))) == set(REPORTS)


def with_field_more(row, kind):
    """The rows, of which one has a message of ``kind`` with a further field."""
    later = msgspec.defstruct(
        kind.__name__, [("later", int, 0)], bases=(kind,), frozen=True
    )
    fields = {
        name: later if getattr(row, name) is kind else getattr(row, name)
        for name in ("request", "answer", "item")
    }
    changed = Row(
        row.name,
        fields["request"],
        fields["answer"],
        row.of,
        row.by,
        item=fields["item"],
    )
    return {**LINK_ROWS, row.name: changed}


def test_an_optional_field_more_is_the_same_schema_in_a_report_alone():
    assert digest(with_field_more(STATUS, StatusReply)) == digest()
    assert digest(with_field_more(LINK_ROWS["Stop"], StopSandbox)) != digest()


def test_a_report_of_a_newer_release_is_read_and_an_order_is_refused():
    """Its unknown fields are ignored under the same version."""
    newer = msgspec.msgpack.encode({"reason": "an update", "back_in": 20})
    assert msgspec.msgpack.decode(newer, type=Bye) == Bye("an update")
    order = {
        "lease": "00112233445566aa",
        "grace": 0,
        "reason": "",
        "only_if_idle": True,
    }
    with pytest.raises(msgspec.ValidationError, match="only_if_idle"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(order), type=StopSandbox)


def test_a_row_more_is_another_schema():
    fresh = Row(
        "Fresh",
        Empty,
        Empty,
        frozenset({ProcessKind.HOST}),
        frozenset({ProcessKind.VIEWER}),
    )
    assert digest({**LINK_ROWS, "Fresh": fresh}) != digest()
