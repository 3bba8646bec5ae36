"""What the authority has for ``brokerctl status``."""

from __future__ import annotations

import msgspec


class PolicyReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules in force, and the problems with those in the files."""

    digest: str
    records: str
    rules: int
    kept: bool
    since: float
    denies_all: bool
    problems: list[str]


class AuthorityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The authority's part of ``brokerctl status``; a pid of 0: no such process."""

    events: int
    commits: int
    failures: int
    waiting: int
    shipper: int
    warnings: list[str]
    log_warnings: list[str] = []
    """Those of ``warnings`` that are about the log."""
    pid: int = 0
    prompt: int = 0
    policy: PolicyReport | None = None
    """None: this role decides nothing."""
