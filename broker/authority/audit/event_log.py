"""What roles and services use of the audit log, and the subjects of events.

The log itself is ``broker.authority.audit.journal.Journal``, or that of another process.

The authority, the host and the viewer record through this interface; only the authority
writes the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypedDict

from broker.core.lease import Lease, Opening
from broker.ipc.audit.event import Event

if TYPE_CHECKING:
    from broker.ipc.audit.schema import Refusal


class EventLog(Protocol):
    """Records events: before an effect, after it, and refusals."""

    def check_share(self, lease: Lease) -> None:
        """Raise RefusedError where a sandbox may begin nothing that is recorded.

        To be called before a stream or the like begins without an action of the user.
        """

    def content_digest(self, content: bytes) -> str:
        """For ``ClipboardPasted.digest``: "" unless ``audit.toml`` asks for it."""

    def digest(self, content: bytes) -> str:
        """Return the keyed hash of a value that is compared and not shown."""

    async def require(self, event: Event, *also: Event) -> None:
        """Record before an effect, which must not happen on the UpstreamError.

        ``also`` follow it, in the authority in the same commit.
        """

    async def note(self, event: Event) -> None:
        """Record an event of the past; a log that fails is reported, not raised."""

    async def refused(self, event: Refusal) -> None:
        """Record a refusal; equal ones of one second are counted into one."""


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
    link: str


def of(lease: Lease) -> EventSubject:
    """Return a lease's fields for an event."""
    return EventSubject(
        sandbox=lease.sandbox, lease=lease.id, generation=lease.generation
    )


def of_stream(opening: Opening) -> StreamSubject:
    """Return the event fields that identify a stream: lease, service, number, peer."""
    return StreamSubject(
        **of(opening.lease),
        service=opening.service,
        stream=opening.stream,
        peer=opening.peer,
        link=opening.link,
    )
