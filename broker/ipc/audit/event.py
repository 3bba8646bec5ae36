"""The common fields of events, and their encoding as lines of JSON.

An event is flat JSON, so that ``jq`` and a database can ask for any field.
Fields that hold their default are left out.  The caller fills in what
happened; the store stamps version, sequence, times, boot and broker.

Content never goes in here: no bytes of a stream, no clipboard, no arguments
of a program; names, sizes, verdicts and reasons only.  A sandbox's own words
inside a reason are bounded and escaped where they enter it.

The authority, the host and the viewer make events; only the authority writes them.
"""

from __future__ import annotations

import enum

import msgspec

from broker.core.errors import InternalError
from broker.core.limits import audit as audit_limits

VERSION = 2
"""The schema's version.  A new kind or a new field with a default keeps it; a changed
meaning raises it.  Events of version 1 are read as they are: version 2 added
kinds and fields, and a stream's bytes may be null, which is: not known (version
1 wrote 0 for the agent's)."""

Scalar = str | int | float | bool | list[str]
"""Types of values in ``detail``: nothing nested, so that it stays a table."""


class EventVerdict(enum.StrEnum):
    """The policy's verdict."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


class Event(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """Fields common to all events; empty or 0 means: does not apply."""

    # Stamped by the store, whatever the caller wrote.
    version: int = 0
    """The version of the schema that it was written with."""
    sequence: int = 0
    """Counts the events of this log from 1 without a gap."""
    time_ns: int = 0
    """UTC, nanoseconds since 1970."""
    boot: str = ""
    """The kernel's boot id; ``monotonic_ns`` compares only within one boot."""
    monotonic_ns: int = 0
    """The kernel's monotonic clock, nanoseconds."""
    broker: str = ""
    """The role that wrote it: ``local``, ``host`` or ``viewer``."""

    sandbox: str = ""
    """The sandbox that asked, or that the event concerns."""
    lease: str = ""
    """The lease by which the sandbox was known then."""
    generation: int = 0
    """Counts the launches of that sandbox on its host."""
    service: str = ""
    """The requested service, as ``vitrail.Display``."""
    argument: str = ""
    """The service's argument; an object's name, see ``object``."""
    stream: int = 0
    """The stream's number on its host."""
    link: str = ""
    """Of two machines: the stream's number on the link and the link's epoch, as
    ``7@0f3a…``, the same in both machines' logs."""
    peer: str = ""
    """How the kernel knows the far end, as ``hybrid:…`` or ``cid 42``."""
    object: str = ""
    """The object concerned, by name: an address, a file, a device.  The setting
    ``names`` keeps it, replaces it by a keyed hash, or drops it."""
    outcome: str = ""
    """How it went, in a word."""
    reason: str = ""
    """Why, as a user reads it."""
    count: int = 1
    """More than 1: that many equal refusals, counted into this event."""
    detail: dict[str, Scalar] = {}
    """Further facts, by name."""

    @property
    def kind(self) -> str:
        """The kind's name, as ``stream.closed``."""
        tag = self.__struct_config__.tag
        if not isinstance(tag, str):
            raise InternalError("the event has no kind")
        return tag


_encoder = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """Return the event as one line of JSON, without the line's end.

    Raises InternalError beyond ``audit_limits.AUDIT_EVENT_BYTES`` and for text that
    is not Unicode: the values of an event are bounded and escaped where they
    enter the broker.
    """
    try:
        body = _encoder.encode(event)
    except UnicodeEncodeError as error:
        raise InternalError(f"the event {event.kind} has unescaped text") from error
    if len(body) > audit_limits.AUDIT_EVENT_BYTES:
        raise InternalError(
            f"the event {event.kind} has {len(body)} bytes "
            f"(at most {audit_limits.AUDIT_EVENT_BYTES})"
        )
    return body
