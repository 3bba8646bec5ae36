"""The authority as the broker that started it holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.authority.options import ClientEnds


@dataclass(frozen=True)
class AuthorityHandle:
    """The authority as the broker that started it holds it."""

    clients: Mapping[str, ClientEnds]
    """Of the roles ``host``, ``viewer``, or both."""
    pid: int
    pidfd: int
