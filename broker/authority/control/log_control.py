"""The control methods about the audit log, and the broker's version, of the authority."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from broker.core.errors import RefusedError
from broker.ipc.audit.database import open_reading
from broker.ipc.control import api, methods
from broker.ipc.control.answers import answer_in
from broker.ipc.control.dispatch import Forward
from broker.ipc.control.method import Exchange, serves
from broker.ipc.control.varlink import Call, raw
from broker.ipc.in_thread import in_thread

_LOOK_SECONDS = 0.25
"""Between two looks at the log while a subscriber has all of it."""
_ROWS = 256


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
        """Remove old events by age or size of the log.  Raises RefusedError."""
        del exchange
        for given in (request.keep_seconds, request.max_megabytes):
            if given is not None and given < 1:
                raise RefusedError("the limits must be at least 1 second and 1 MB")
        removed = await self._prune(request.keep_seconds, request.max_megabytes)
        return api.AuditPruneAnswer(removed=removed)


@dataclass(frozen=True)
class VersionPart:
    """Which broker this is: its client says so while it lives, but for its process."""

    client: Forward
    broker: int
    """The broker's first process."""

    @serves(methods.GET_VERSION)
    async def version(
        self, exchange: Exchange[api.Version], request: api.Nothing
    ) -> api.Version:
        """Return the client's answer; ``brokerctl restart`` kills the process in it."""
        call = Call(f"{api.INTERFACE}.{methods.GET_VERSION.name}", raw(request))
        found = answer_in(await self.client(call, exchange), api.Version)
        # guard: a viewer that was taken over names no other process to end
        return msgspec.structs.replace(found, pid=self.broker)


@dataclass(frozen=True)
class EventsPart:
    """Subscriptions to the audit log, for other programs.

    They are read from the log's file, in a thread: recording waits for none of them.
    """

    log: Path
    """The database of this broker's audit log."""

    @serves(methods.EVENTS)
    async def events(
        self, exchange: Exchange[api.EventItem], request: api.EventsRequest
    ) -> api.EventItem:
        """Send new events until the client leaves.

        Raises RefusedError without ``more``.
        """
        if not exchange.more:
            raise RefusedError("a call for events must set 'more'")
        last, kinds = request.after, set(request.kinds or ())
        if last is None:
            last = await in_thread(_newest, self.log)
        await exchange.emit(api.EventItem(sequence=last))
        while True:
            rows = await in_thread(_since, self.log, last)
            for last, kind, body in rows:
                if not kinds or kinds & {kind, kind.partition(".")[0]}:
                    await exchange.emit(api.EventItem(sequence=last, event=body))
            if not rows:
                await trio.sleep(_LOOK_SECONDS)


def _newest(log: Path) -> int:
    with open_reading(log) as db:
        return int(db.execute("SELECT max(sequence) FROM event").fetchone()[0] or 0)


def _since(log: Path, last: int) -> list[tuple[int, str, str]]:
    """Read the events after a number, without removed ones."""
    with open_reading(log) as db:
        return db.execute(
            "SELECT sequence, kind, body FROM event WHERE sequence > ? AND body != '' "
            "ORDER BY sequence LIMIT ?",
            (last, _ROWS),
        ).fetchall()
