"""What the host's and the viewer's processes share: options, log and records.

The authority's process does not use it.
"""

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
        """Read the records again.  Raises UpstreamError when that cannot be recorded."""
        ...


@dataclass(frozen=True)
class Foundation:
    """Options, log and records of a process outside the authority."""

    role: str
    options: Options
    log: EventLog
    records: CurrentRecords

    @property
    def paths(self) -> Paths:
        """Return the paths of the broker's files and sockets."""
        return self.options.paths
