"""The result of one check of ``brokerctl doctor``."""

from __future__ import annotations

import enum
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.core.paths import Paths


class FindingState(enum.StrEnum):
    """The state of a finding."""

    OK = "ok"
    WARN = "warn"
    """Vitrail works, with less: the text names the missing part."""
    FAIL = "fail"
    """Something that Vitrail needs does not work."""


@dataclass(frozen=True)
class Finding:
    """The result of a check: its name, text and fix."""

    name: str
    state: FindingState
    text: str
    mend: str = ""
    """The remedy, as a command where one exists; empty when all is well."""


@dataclass(frozen=True)
class Context:
    """The paths and the environment that the checks examine."""

    paths: Paths
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


Check = Callable[[Context], Awaitable[Sequence[Finding]]]
"""Looks at one thing.  May raise a VitrailError or OSError, which is a failure."""


def ok(name: str, text: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(name, FindingState.OK, text)


def warn(name: str, text: str, mend: str = "") -> Finding:
    """Return a finding that warns."""
    return Finding(name, FindingState.WARN, text, mend)


def fail(name: str, text: str, mend: str = "") -> Finding:
    """Return a finding that fails."""
    return Finding(name, FindingState.FAIL, text, mend)
