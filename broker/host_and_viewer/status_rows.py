"""The rows of a broker's status that host or viewer provides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.core.lease import Opening
from broker.ipc.control.types.leases import LeaseStatus
from broker.ipc.control.types.status_rows import ProcessStatus, SandboxStatus


@dataclass(frozen=True)
class StreamCount:
    """Bytes and work of a stream that ends in a worker, as the worker claims."""

    from_guest: int
    to_guest: int
    work: float
    """Seconds of CPU."""


class StatusRows:
    """The rows of one part; each list is empty unless a subclass overrides it."""

    async def look(self) -> None:
        """Get the rows from where they are, before the others are called."""

    async def sandboxes(self) -> list[SandboxStatus]:
        """The sandboxes that this part knows."""
        return []

    def leases(self) -> list[LeaseStatus]:
        """The live leases."""
        return []

    def streams(self) -> list[tuple[Opening, float]]:
        """Streams and when each began (seconds since 1970)."""
        return []

    async def worker_counts(self) -> Mapping[int, StreamCount]:
        """Streams that end in workers."""
        return {}

    def processes(self) -> list[ProcessStatus]:
        """Processes beside the broker, its pump and its shipper."""
        return []

    def tasks(self) -> int:
        """Tasks of trio in another process."""
        return 0


def process_status(
    role: str, pid: int, sandbox: str = "", *, jail: str = ""
) -> ProcessStatus:
    """One process of the broker or of a sandbox; ``jail`` names its walls."""
    return ProcessStatus(role=role, pid=pid, sandbox=sandbox, jail=jail)
