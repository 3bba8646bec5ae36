"""Subscriptions to the audit log, for other programs.

They are read from the log's file, so the process that records knows none of them and
waits for none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trio

from broker.core.errors import RefusedError
from broker.ipc.audit.database import open_reading
from broker.ipc.control import api, methods
from broker.ipc.control.method import Exchange, serves
from broker.ipc.in_thread import in_thread

_LOOK_SECONDS = 0.25
"""Between two looks at the log while a subscriber has all of it."""
_ROWS = 256


@dataclass(frozen=True)
class EventsPart:
    """``log`` is the database of this broker's audit log."""

    log: Path

    @serves(methods.EVENTS)
    async def events(
        self, exchange: Exchange[api.EventItem], request: api.EventsRequest
    ) -> api.EventItem:
        """Send events until the client leaves.  Raises RefusedError without ``more``."""
        if not exchange.more:
            raise RefusedError("events need a call with 'more'")
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
    with open_reading(log) as db:
        return db.execute(
            "SELECT sequence, kind, body FROM event WHERE sequence > ? AND body != '' "
            "ORDER BY sequence LIMIT ?",
            (last, _ROWS),
        ).fetchall()
