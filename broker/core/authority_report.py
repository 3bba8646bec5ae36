"""What the authority has for ``brokerctl status``.

The authority makes it; the host and the viewer add it to the status that brokerctl
prints.
"""

from __future__ import annotations

import msgspec


class PolicyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The rules in force."""

    digest: str = ""
    """Of the rules; on a host, which has none, of its records."""
    records: str = ""
    """Digest of the records."""
    rules: int = 0
    """How many there are."""
    kept: bool = False
    """The files have an error, and these are the last good ones, kept on disk."""
    denies_all: bool = False
    """The files have an error, and there never was a good set."""
    since: float = 0.0
    """When these rules came into force, seconds since 1970; 0: there are none."""
    problems: list[str] = []
    """Of files that were refused, each ``file:line:column: what``; at the end
    what that means."""


class AuditStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The audit log's writer since the broker's start."""

    events: int
    commits: int
    failures: int
    waiting: int


class AuthorityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The authority's part of ``brokerctl status``; a pid of 0: no such process."""

    audit: AuditStatus
    shipper: int
    warnings: list[str]
    log_warnings: list[str]
    """Those of ``warnings`` that are about the log."""
    pid: int
    prompt: int
    policy: PolicyStatus
