"""What roles and services use of the audit log, and the subjects of events.

The log itself is ``broker.services.event_log.Journal``, or that of another process.
"""

from __future__ import annotations

from typing import Protocol, TypedDict

from broker.audit.event import Event
from broker.audit.refusals import Refusal
from broker.core.lease import Lease, Opening


class EventLog(Protocol):
    """Records events: before an effect, behind it, and refusals."""

    def check_share(self, sandbox: str) -> None:
        """Look whether a sandbox may begin something that has to be recorded.

        Code that opens a stream or the like for a sandbox, without an action of the
        user, calls this first.  Raises RefusedError.
        """
        ...

    def content_digest(self, content: bytes) -> str:
        """For ``ClipboardPasted.digest``: "" unless ``audit.toml`` asks for it."""
        ...

    def digest(self, content: bytes) -> str:
        """Return the keyed hash of a value that is compared and not shown."""
        ...

    async def require(self, event: Event) -> None:
        """Record before an effect.

        Raises UpstreamError when that cannot be done; the effect must not
        happen then.
        """
        ...

    async def note(self, event: Event) -> None:
        """Record an event of the past; a log that fails is reported, not raised."""
        ...

    async def refused(self, event: Refusal) -> None:
        """Record a refusal; equal ones of one second are counted into one."""
        ...


class EventSubject(TypedDict):
    """The fields of an event that say whose it is."""

    sandbox: str
    lease: str
    generation: int


class StreamSubject(EventSubject):
    """The fields of an event that say which stream it is about."""

    service: str
    stream: int
    peer: str


def of(lease: Lease) -> EventSubject:
    """Return a lease's fields for an event."""
    return EventSubject(
        sandbox=lease.sandbox, lease=lease.id, generation=lease.generation
    )


def of_stream(opening: Opening) -> StreamSubject:
    """Return a stream's fields for an event."""
    return StreamSubject(
        **of(opening.lease),
        service=opening.service,
        stream=opening.stream,
        peer=opening.peer,
    )
