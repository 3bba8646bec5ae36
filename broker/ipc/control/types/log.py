"""The audit log, as far as a broker itself must act on it."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class AuditPruneRequest(ApiRequest, frozen=True, kw_only=True):
    """Remove old events from the audit log."""

    keep_seconds: int | None = None
    """Those older than this; None: as the setting says."""
    max_megabytes: int | None = None


class EventsRequest(ApiRequest, frozen=True, kw_only=True):
    """Send events of the audit log as they are recorded."""

    kinds: list[str] | None = None
    """As ``decision``, or the first word of some: ``question``; None: all kinds."""
    after: int | None = None
    """Those after the event of this number; None: from now on."""


class EventItem(ApiAnswer, frozen=True, kw_only=True):
    """An event and its number; the first item has none: the subscription has begun."""

    sequence: int
    event: str | None = None
    """JSON, as 'brokerctl audit --json' prints it."""


class AuditPruneAnswer(ApiAnswer, frozen=True, kw_only=True):
    """The removed events."""

    removed: int
