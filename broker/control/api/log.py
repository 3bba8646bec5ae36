"""The audit log, as far as a broker itself must act on it."""

from __future__ import annotations

from broker.control.api.base import Answer, Request


class AuditPruneRequest(Request, frozen=True, kw_only=True):
    """Remove old events from the audit log."""

    keep_seconds: int | None = None
    """Those older than this; None: as the setting says."""
    max_megabytes: int | None = None


class AuditPruneAnswer(Answer, frozen=True, kw_only=True):
    """The removed events."""

    removed: int
