"""Everything that ``brokerctl status`` shows."""

from __future__ import annotations

from broker.core.authority_report import AuditStatus, PolicyStatus
from broker.ipc.control.types.base import ApiAnswer
from broker.ipc.control.types.leases import LeaseStatus
from broker.ipc.control.types.status_rows import ProcessStatus, SandboxStatus


class StreamStatus(ApiAnswer, frozen=True, kw_only=True):
    """A live stream; rates are the difference of two answers."""

    stream: int
    sandbox: str
    lease: str
    service: str
    bytes_from_sandbox: int
    bytes_to_sandbox: int
    since: float
    mode: str = ""
    work: float = 0.0
    """Seconds that a worker has spent on decoding it."""


class PumpStatus(ApiAnswer, frozen=True, kw_only=True):
    """The process that moves the bytes."""

    pid: int
    streams: int
    pipes_pooled: int = 0
    streams_total: int = 0
    bytes_total: int = 0


class LinkOther(ApiAnswer, frozen=True, kw_only=True):
    """The status that the broker at the link's other end claims."""

    program: str
    leases: int
    streams: int
    refused: int
    """Connections and streams that it refused in this epoch."""
    up_seconds: int
    warnings: list[str] = []


class LinkStatus(ApiAnswer, frozen=True, kw_only=True):
    """The link between a host and a viewer, seen from one end."""

    role: str
    """Of this end: ``host`` or ``viewer``."""
    endpoint: str
    """Where the viewer listens."""
    state: str
    """``up``; ``waiting`` for a host, ``dialling`` a viewer; ``down`` between."""
    since: float
    """Seconds since 1970."""
    version: int
    """Of the link, that this end speaks."""
    problem: str = ""
    """Why there is no link now, or why the last one ended."""
    cure: str = ""
    """What to do about it."""
    name: str = ""
    """The local name of the other broker."""
    epoch: str = ""
    epochs: int = 0
    """How often the link has come up."""
    leases: int = 0
    streams: int = 0
    refused: int = 0
    """Connections that this end refused."""
    loss: str = ""
    """The programs that ended with the link when it last had some, and why."""
    loss_since: float = 0.0
    """When that was, in seconds since 1970."""
    other: LinkOther | None = None


class Status(ApiAnswer, frozen=True, kw_only=True):
    """Everything that ``brokerctl status`` shows."""

    version: str
    role: str
    pid: int
    since: float
    """Seconds since 1970."""
    monotonic: float
    """When this was taken, in seconds of the broker's monotonic clock."""
    policy: PolicyStatus
    sandboxes: list[SandboxStatus] = []
    leases: list[LeaseStatus] = []
    streams: list[StreamStatus] = []
    streams_omitted: int = 0
    """Live ones that did not fit into the answer, those that moved least."""
    processes: list[ProcessStatus] = []
    tasks: int = 0
    """Tasks of the broker, this answer's own included; steady while nothing
    changes, so a leak shows."""
    pump: PumpStatus | None = None
    audit: AuditStatus | None = None
    link: LinkStatus | None = None
    warnings: list[str] = []
