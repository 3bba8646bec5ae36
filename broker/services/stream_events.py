"""The events of one stream of a sandbox: opened, refused, closed."""

from __future__ import annotations

import trio

from broker.audit import schema
from broker.core.lease import Opening
from broker.services import event_log
from broker.services.event_log import Journal


class StreamEvents:
    """The events of a sandbox's streams, in the viewer's log."""

    def __init__(self, log: Journal) -> None:
        self._log = log

    async def opened(self, opening: Opening, mode: str) -> None:
        """Before its first byte; raises when the log takes no events."""
        await self._log.require(
            schema.StreamOpened(**event_log.of_stream(opening), mode=mode)
        )

    async def refused(self, opening: Opening, reason: str) -> None:
        """It was let in, and then nothing came of it."""
        await self._log.refused(
            schema.StreamRefused(
                **event_log.of_stream(opening), outcome="refused", reason=reason
            )
        )

    async def closed(
        self,
        opening: Opening,
        counts: tuple[int, int] | None,
        reason: str,
        began: float,
    ) -> None:
        """Its end: bytes from and to the sandbox, if they were counted."""
        from_sandbox, to_sandbox = counts or (None, None)
        await self._log.note(
            schema.StreamClosed(
                **event_log.of_stream(opening),
                outcome="closed",
                reason=reason,
                bytes_from_sandbox=from_sandbox,
                bytes_to_sandbox=to_sandbox,
                seconds=trio.current_time() - began,
            )
        )
