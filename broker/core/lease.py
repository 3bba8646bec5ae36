"""Descriptions of a lease and of a stream, for messages and logs.

Small frozen values: they cross between host and viewer, into the audit log
and onto the control socket.

The host makes leases, the viewer and the authority hold copies.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.core.names import LeaseId, SandboxName, ServiceName


@dataclass(frozen=True)
class Lease:
    """The binding of one peer identity to one launch of a sandbox."""

    id: LeaseId
    sandbox: SandboxName
    record: SandboxName
    """The record's name; differs from ``sandbox`` for a disposable."""
    generation: int
    """Counts the launches of this sandbox on this host, from 1."""


@dataclass(frozen=True)
class Opening:
    """A stream that a leased peer has opened."""

    lease: Lease
    service: ServiceName
    stream: int
    """Counts the streams of this host; names the stream in events."""
    peer: str
    """How the peer was recognised, for the log: ``hybrid:…`` or ``cid 42``."""
    direct: bool = False
    """For ``vitrail.Display``: an application's own connection, not waypipe's."""
    link: str = ""
    """Of two machines: its number on the link and the link's epoch, as ``7@0f3a…``."""
