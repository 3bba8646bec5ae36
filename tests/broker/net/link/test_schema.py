"""The version of the link changes with its messages.

Two ends of one version and different messages connect, lose the link at the first message
that one of them does not know, and connect again.
"""

from __future__ import annotations

import hashlib
import json

import msgspec

from broker.net.link import messages, wire_types

SCHEMAS = {
    2: "e812ca85ff03933cbe064e839cf8393afc6e37561c82c3fdd524b548f7253d68",
}
"""The digest of the messages of each version that was released, and of today's."""


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


def digest():
    both = [messages.FromHost, messages.FromViewer]
    schema = msgspec.json.schema_components(both)
    forms = [
        wire_types.HEADER.format,
        [door.value.decode() for door in wire_types.ConnectionKind],
    ]
    whole = json.dumps([_without_texts(list(schema)), forms], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def test_other_messages_have_another_version():
    """Mend by a higher VERSION in wire_types.py, and its digest here."""
    assert max(SCHEMAS) == wire_types.VERSION
    assert digest() == SCHEMAS[wire_types.VERSION]


def test_a_message_more_is_another_schema(monkeypatch):
    class Fresh(messages.LinkRequest, frozen=True, tag="fresh"):
        """A request that the other end does not know."""

    before = digest()
    monkeypatch.setattr(messages, "FromHost", messages.FromHost | Fresh)
    assert digest() != before
