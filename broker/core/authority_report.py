"""What the authority has for ``brokerctl status``."""

from __future__ import annotations

import msgspec


class PolicyReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rules and records in force, and the problems with those in the files.

    On a host, which has no rules, ``digest`` is that of the records.
    """

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
    log_warnings: list[str]
    """Those of ``warnings`` that are about the log."""
    pid: int
    prompt: int
    policy: PolicyReport
