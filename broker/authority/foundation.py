"""What a process of a broker that carries out is built on: options, log, records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from broker.authority.audit.event_log import EventLog
from broker.authority.options import Options
from broker.core.paths import Paths
from policy.records.model import RecordSet


class CurrentRecords(Protocol):
    """The records in force."""

    @property
    def now(self) -> RecordSet:
        """In force, or a copy of them."""
        ...

    async def reload(self) -> None:
        """Read them again.  Raises UpstreamError when that cannot be recorded."""
        ...


@dataclass(frozen=True)
class Foundation:
    """What a host has, whether it has a pump or not."""

    role: str
    options: Options
    log: EventLog
    records: CurrentRecords

    @property
    def paths(self) -> Paths:
        """Where the broker's things are."""
        return self.options.paths
