"""The version of the link changes with its messages.

Two ends of one version and different messages connect, lose the link at the first message
that one of them does not know, and connect again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator

import msgspec
import pytest

from broker.net.link import messages, wire_types

SCHEMAS = {
    2: "e812ca85ff03933cbe064e839cf8393afc6e37561c82c3fdd524b548f7253d68",
    3: "5c764d5431cfa0827ebe34dfb286b3fecf4a4f43fdc47bbae986e81139c5d158",
}
"""The digest of the messages of each version that was released, and of today's."""

REPORTS = {
    "Bye": set(),
    "DeviceEnded": set(),
    "RequestRefused": {"hint"},
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


def components():
    return msgspec.json.schema_components([messages.FromHost, messages.FromViewer])


def digest():
    refs, parts = components()
    schema = [list(refs), _without_later_fields(parts)]
    forms = [
        wire_types.HEADER.format,
        [door.value.decode() for door in wire_types.ConnectionKind],
    ]
    whole = json.dumps([_without_texts(schema), forms], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def test_other_messages_have_another_version():
    """Mend by a higher VERSION in wire_types.py, and its digest here."""
    assert max(SCHEMAS) == wire_types.VERSION
    assert digest() == SCHEMAS[wire_types.VERSION]


def test_only_reports_may_have_unknown_fields():
    """What orders something must be obeyed whole or refused."""
    assert set(_reports(components()[1])) == set(REPORTS)


def test_an_optional_field_more_is_the_same_schema_in_a_report_alone(monkeypatch):
    before = digest()

    class StatusReply(messages.StatusReply, frozen=True, tag="status"):
        later: int = 0

    class StopSandbox(messages.StopSandbox, frozen=True, tag="stop"):
        later: int = 0

    def with_later(union, name, fresh):
        types = [fresh if x.__name__ == name else x for x in union.__args__]
        return functools.reduce(operator.or_, types)

    later = with_later(messages.FromHost, "StatusReply", StatusReply)
    viewer = with_later(messages.FromViewer, "StatusReply", StatusReply)
    with monkeypatch.context() as patch:
        patch.setattr(messages, "FromHost", later)
        patch.setattr(messages, "FromViewer", viewer)
        assert digest() == before
    stop = with_later(messages.FromViewer, "StopSandbox", StopSandbox)
    monkeypatch.setattr(messages, "FromViewer", stop)
    assert digest() != before


def test_a_report_of_a_newer_release_is_read_and_an_order_is_refused():
    """Its unknown fields are ignored under the same version."""
    newer = b'{"type": "bye", "reason": "an update", "back_in": 20}'
    assert messages.decode(newer, wire_types.Role.HOST) == messages.Bye("an update")
    order = (
        b'{"type": "stop", "request": 1, "lease": "00112233445566aa", "grace": 0,'
        b' "reason": "", "only_if_idle": true}'
    )
    with pytest.raises(wire_types.LinkRefusedError, match="only_if_idle"):
        messages.decode(order, wire_types.Role.VIEWER)


def test_a_message_more_is_another_schema(monkeypatch):
    class Fresh(messages.LinkRequest, frozen=True, tag="fresh"):
        """A request that the other end does not know."""

    before = digest()
    monkeypatch.setattr(messages, "FromHost", messages.FromHost | Fresh)
    assert digest() != before
