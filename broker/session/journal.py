"""Writing events: what must be on disk before an effect, and what follows it."""

from __future__ import annotations

from typing import TypedDict

from broker.audit import schema
from broker.audit.refusals import Refusals
from broker.audit.store import Store
from broker.core.complain import complain
from broker.core.errors import UpstreamError
from broker.core.lease import Lease, Opening


class Subject(TypedDict):
    """The fields of an event that say whose it is."""

    sandbox: str
    lease: str
    generation: int


class StreamSubject(Subject):
    """The fields of an event that say which stream it is about."""

    service: str
    stream: int
    peer: str


def of(lease: Lease) -> Subject:
    """Return a lease's fields for an event."""
    return Subject(sandbox=lease.sandbox, lease=lease.id, generation=lease.generation)


def of_stream(opening: Opening) -> StreamSubject:
    """Return a stream's fields for an event."""
    return StreamSubject(
        **of(opening.lease),
        service=opening.service,
        stream=opening.stream,
        peer=opening.peer,
    )


class Journal:
    """The audit log as the roles use it."""

    def __init__(self, store: Store, refusals: Refusals) -> None:
        self._store = store
        self._refusals = refusals

    async def require(self, event: schema.Event) -> None:
        """Record before an effect.

        Raises UpstreamError when that cannot be done; the effect must not
        happen then.
        """
        await self._store.record(event)

    async def note(self, event: schema.Event) -> None:
        """Record what has happened already; a log that fails is said on stderr.

        It cannot be undone, so there is nothing to refuse.
        """
        try:
            await self._store.record(event)
        except UpstreamError as error:
            complain(f"vitrail: not recorded: {event.kind}: {error}")

    async def refused(
        self,
        event: schema.StreamRefused
        | schema.LeaseRefused
        | schema.LinkRefused
        | schema.Decision,
    ) -> None:
        """Record a refusal; equal ones of one second are counted into one."""
        await self._refusals.refused(event)
