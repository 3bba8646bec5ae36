"""Events: their form as JSON, and values that they refuse."""

from __future__ import annotations

import json

import pytest

from broker.core.errors import InternalError
from broker.core.limits import audit as audit_limits
from broker.ipc.audit import schema
from broker.ipc.audit.schema import Decision, EventVerdict, LeaseEnd, StreamClosed


def test_an_event_is_flat_json_without_what_does_not_apply() -> None:
    event = Decision(
        sandbox="web",
        service="vitrail.Display",
        verdict=EventVerdict.ALLOW,
        rule="web.toml:3:1",
    )
    assert json.loads(schema.encode(event)) == {
        "kind": "decision",
        "sandbox": "web",
        "service": "vitrail.Display",
        "verdict": "allow",
        "rule": "web.toml:3:1",
    }


def test_every_kind_has_a_name_of_its_own_and_is_read_back() -> None:
    assert len(set(schema.KINDS)) == len(schema.KINDS) == 53
    event = StreamClosed(bytes_from_sandbox=1, bytes_to_sandbox=1 << 40, seconds=2.5)
    assert event.kind == "stream.closed"
    assert schema.decode(schema.encode(event)) == event


def test_uncounted_bytes_are_null() -> None:
    event = StreamClosed(bytes_from_sandbox=None, bytes_to_sandbox=None, seconds=1)
    assert json.loads(schema.encode(event))["bytes_to_sandbox"] is None
    assert schema.decode(schema.encode(event)) == event


def test_an_unknown_field_is_no_event() -> None:
    with pytest.raises(Exception, match="unknown field"):
        schema.decode('{"kind": "broker.stop", "content": "secret"}')


def test_an_event_at_the_limit_is_taken_and_one_byte_more_is_not() -> None:
    empty = len(schema.encode(LeaseEnd(reason="x"))) - 1
    exact = LeaseEnd(reason="x" * (audit_limits.AUDIT_EVENT_BYTES - empty))
    assert len(schema.encode(exact)) == audit_limits.AUDIT_EVENT_BYTES
    with pytest.raises(InternalError, match=r"lease\.end"):
        schema.encode(LeaseEnd(reason=exact.reason + "x"))


def test_text_that_is_no_unicode_is_our_mistake_not_a_crash() -> None:
    with pytest.raises(InternalError, match="unescaped"):
        schema.encode(LeaseEnd(reason="\udc80"))
