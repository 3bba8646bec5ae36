"""Counting equal refusals into one event, so that a flood fills no disk.

``Counter`` is the arithmetic, with time passed in; ``Refusals`` is its shell
around a store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import msgspec
import trio

from broker.audit import schema
from broker.audit.store import Store
from broker.core import limits
from broker.core.complain import complain_of
from broker.core.errors import InternalError, UpstreamError

_WINDOW = 1.0
_LONGEST = 60.0
_OTHERS = "further refusals of many kinds"


@dataclass(eq=False)
class _Window:
    event: schema.Event
    ends: float
    written: int = 1
    held: int = 0
    seconds: float = _WINDOW


class Counter:
    """Decides which refusal becomes an event.

    In each second, ``limits.REFUSALS_LOGGED_PER_SECOND`` equal ones are
    events of their own; those beyond are counted and come out as one event
    when the second is over.  Equal means: in all but the stream's number.

    Where it goes on, the next count comes after two seconds, then after four,
    up to a minute; and where kinds are new without end, all beyond a certain
    pace share one count.  So a flood of a day is a few ten thousand events,
    whatever it is made of.
    """

    def __init__(self) -> None:
        self._windows: dict[bytes, _Window] = {}
        self._fresh = float(limits.AUDIT_REFUSAL_KEYS)
        """How many new kinds may still get an event of their own."""
        self._filled = 0.0

    def take(self, event: schema.Event, now: float) -> list[schema.Event]:
        """Return what is to be recorded now, oldest first.

        ``now`` in seconds, of a clock that does not go back.  Raises
        InternalError for an event that cannot be written.
        """
        words = _words(event)
        out = self.due(now)
        gained = (now - self._filled) * limits.AUDIT_REFUSAL_KINDS_PER_SECOND
        self._fresh = min(limits.AUDIT_REFUSAL_KEYS, self._fresh + gained)
        self._filled = now
        key, event = self._key(event, words)
        window = self._windows.get(key)
        if window is None:
            self._windows[key] = _Window(event, now + _WINDOW)
            out.append(event)
        elif window.written < limits.REFUSALS_LOGGED_PER_SECOND:
            window.written += 1
            out.append(event)
        else:
            self._hold(window, event)
        return out

    def due(self, now: float) -> list[schema.Event]:
        """Return the counts of the seconds that are over, and forget them."""
        over = [key for key, w in self._windows.items() if w.ends <= now]
        out: list[schema.Event] = []
        for key in over:
            window = self._windows.pop(key)
            if window.held:
                out.append(msgspec.structs.replace(window.event, count=window.held))
                # The flood may go on: its next window begins where this ended.
                length = min(2 * window.seconds, _LONGEST)
                self._windows[key] = _Window(
                    window.event,
                    now + length,
                    written=limits.REFUSALS_LOGGED_PER_SECOND,
                    seconds=length,
                )
        return out

    def hold(self, event: schema.Event, now: float) -> None:
        """Take back what could not be recorded; it comes out a second later."""
        key, event = self._key(event, _words(event))
        window = self._windows.setdefault(
            key,
            _Window(event, now + _WINDOW, written=limits.REFUSALS_LOGGED_PER_SECOND),
        )
        self._hold(window, event)

    @staticmethod
    def _hold(window: _Window, event: schema.Event) -> None:
        # Some counts are a worker's claim, and whoever reads the log adds them.
        window.held = min(limits.AUDIT_COUNT, window.held + event.count)
        window.event = event

    def flush(self) -> list[schema.Event]:
        """Return all counts now (before the log is closed)."""
        return self.due(math.inf)

    def deadline(self) -> float:
        """When ``due`` will next have something to say, or infinity."""
        return min((w.ends for w in self._windows.values()), default=math.inf)

    def _key(self, event: schema.Event, key: bytes) -> tuple[bytes, schema.Event]:
        if key in self._windows:
            return key, event
        if len(self._windows) < limits.AUDIT_REFUSAL_KEYS and self._fresh >= 1:
            self._fresh -= 1
            return key, event
        # Too many kinds: one count for all others of this kind, of anybody.
        shared: schema.Event
        if isinstance(event, schema.LeaseRefused):
            shared = schema.LeaseRefused(reason=_OTHERS, count=event.count)
        elif isinstance(event, schema.LogConflict):
            shared = schema.LogConflict(size=0, reason=_OTHERS, count=event.count)
        else:
            shared = schema.StreamRefused(reason=_OTHERS, count=event.count)
        return event.kind.encode(), shared


def _words(event: schema.Event) -> bytes:
    """What is equal in equal refusals.  Raises InternalError for a large one."""
    return schema.encode(msgspec.structs.replace(event, stream=0, count=1))


class Refusals:
    """Records refusals in a store, equal ones counted.

    A store that fails does not make a refusal an error: nothing takes effect
    that would have to be on record first.  The event is kept and tried again.
    Nor does one that cannot be written (a mistake of ours): it is said, and lost.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counter = Counter()
        self._more = trio.Event()

    async def refused(
        self,
        event: schema.StreamRefused
        | schema.LeaseRefused
        | schema.LinkRefused
        | schema.ClipboardEnded
        | schema.Decision
        | schema.LogConflict,
    ) -> None:
        """Record or count a refusal."""
        try:
            now = self._counter.take(event, trio.current_time())
        except InternalError as error:
            complain_of(error)
            return
        await self._record(now)
        self._more.set()

    async def run(self) -> None:
        """Write the counts when their second is over; until cancelled.

        What is counted then is written before it ends.
        """
        try:
            while True:
                self._more = trio.Event()
                with trio.move_on_at(self._counter.deadline()):
                    await self._more.wait()
                await self._record(self._counter.due(trio.current_time()))
        finally:
            with trio.CancelScope(shield=True):
                await self._record(self._counter.flush())

    async def _record(self, events: list[schema.Event]) -> None:
        for event in events:
            try:
                await self._store.record(event)
            except UpstreamError:
                # The store counts its failures; 'brokerctl status' shows them.
                self._counter.hold(event, trio.current_time())
            except InternalError as error:
                # A task of the broker's own writes the counts: its end is everybody's.
                complain_of(error)
