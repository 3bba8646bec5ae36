"""The audit log, as far as a broker itself must act on it."""

from __future__ import annotations

from broker.ipc.control.api.base import ApiAnswer, ApiRequest


class AuditPruneRequest(ApiRequest, frozen=True, kw_only=True):
    """Remove old events from the audit log."""

    keep_seconds: int | None = None
    """Those older than this; None: as the setting says."""
    max_megabytes: int | None = None


class AuditPruneAnswer(ApiAnswer, frozen=True, kw_only=True):
    """The removed events."""

    removed: int
