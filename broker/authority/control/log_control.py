"""The control methods about the audit log, which the authority answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from broker.core.errors import RefusedError
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves


class LogControl:
    """The methods about the audit log."""

    def __init__(
        self, prune: Callable[[int | None, int | None], Awaitable[int]]
    ) -> None:
        """``prune``: seconds, megabytes; returns the number of events removed."""
        self._prune = prune

    @serves(methods.AUDIT_PRUNE)
    async def prune(
        self, exchange: Exchange[api.AuditPruneAnswer], request: api.AuditPruneRequest
    ) -> api.AuditPruneAnswer:
        """Remove old events.  Raises RefusedError."""
        del exchange
        for given in (request.keep_seconds, request.max_megabytes):
            if given is not None and given < 1:
                raise RefusedError("nothing is kept for less than a second or MB")
        removed = await self._prune(request.keep_seconds, request.max_megabytes)
        return api.AuditPruneAnswer(removed=removed)
