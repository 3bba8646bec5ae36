"""The events of one stream of a sandbox: opened, refused, closed.

The process that carries the stream (viewer, host) records them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from broker.authority.audit import event_log
from broker.authority.audit.event_log import EventLog
from broker.core.errors import UpstreamError, VitrailError
from broker.core.lease import Opening
from broker.core.limits import audit as audit_limits
from broker.host_and_viewer.pump_supervisor import PumpSupervisor
from broker.ipc.audit import schema
from broker.ipc.pump import EndReason, StreamEnd

_LAST_WORDS_SECONDS = 1.0
_Told = TypeVar("_Told")


@dataclass
class StreamOutcome:
    """How a stream ended; as it is here, when it is cut."""

    reason: str = "cut"
    counts: tuple[int, int] | None = None
    """Bytes from and to the sandbox, if they were counted."""


class StreamEvents:
    """The events of a sandbox's streams, in this broker's log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    @asynccontextmanager
    async def carry(
        self, opening: Opening, mode: str, *, accepted: float | None = None
    ) -> AsyncIterator[StreamOutcome]:
        """Record a stream's begin and end around the block that carries it.

        The first one is on disk before the block begins; raises when the log takes
        no events.  The last one is written however the block ends, with what the
        block has put into the outcome or raised.  ``accepted`` is trio's time at which
        the far end had its answer, if that was before.
        ``mode`` is empty for a stream whose permit has recorded it (``Request.opens``).
        """
        if mode:
            subject = event_log.of_stream(opening)
            await self._log.require(schema.StreamOpened(**subject, mode=mode))
        # Not from its arrival: the host counts from the viewer's answer, and both
        # machines' logs are to have the same seconds.
        began = trio.current_time() if accepted is None else accepted
        outcome = StreamOutcome()
        try:
            yield outcome
        except VitrailError as error:
            if outcome.reason == StreamOutcome.reason:
                outcome.reason = str(error)
            raise
        finally:
            with trio.CancelScope(shield=True):
                await self._closed(opening, outcome, began)

    async def refused(self, opening: Opening, reason: str) -> None:
        """Record that an allowed stream was refused before it was opened."""
        await self._log.refused(
            schema.StreamRefused(
                **event_log.of_stream(opening), outcome="refused", reason=reason
            )
        )

    async def _closed(
        self, opening: Opening, outcome: StreamOutcome, began: float
    ) -> None:
        """Record ``stream.closed``, with the outcome and the duration."""
        from_sandbox, to_sandbox = outcome.counts or (None, None)
        if outcome.counts is not None:
            # Where a worker carried the stream they are its claim, and readers add them.
            # guard: claims of bytes have an end
            from_sandbox, to_sandbox = (
                min(n, audit_limits.AUDIT_COUNT) for n in outcome.counts
            )
        await self._log.note(
            schema.StreamClosed(
                **event_log.of_stream(opening),
                outcome="closed",
                reason=outcome.reason,
                bytes_from_sandbox=from_sandbox,
                bytes_to_sandbox=to_sandbox,
                seconds=trio.current_time() - began,
            )
        )


async def last_words(told: Callable[[], Awaitable[_Told]]) -> _Told | None:
    """Return the worker's last counts of a stream that was cut; None: none in time."""
    with trio.move_on_after(_LAST_WORDS_SECONDS):
        return await told()
    return None


async def relay_stream(
    pump: PumpSupervisor,
    opening: Opening,
    fds: tuple[int, int],
    outcome: StreamOutcome,
    *,
    head: int = 0,
) -> None:
    """Have the pump carry a stream to its end; write the outcome.

    The descriptors, the sandbox's first, are the pump's from here on.  ``head`` is the
    number of bytes that were sent on before.
    """

    def settle(end: StreamEnd) -> None:
        # Also of a stream that was cut; a pump that has died says nothing.
        known = end.reason is not EndReason.PUMP_DIED
        outcome.counts = (end.bytes_ab + head, end.bytes_ba) if known else None

    try:
        end = await pump.relay(*fds, name=str(opening.stream), settle=settle)
    except UpstreamError as error:
        outcome.reason = str(error)
    else:
        outcome.reason = end.describe()
