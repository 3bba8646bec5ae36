"""Counting equal refusals into one event, so that a flood fills no disk.

``Counter`` is the arithmetic, with time passed in; ``Refusals`` is its shell
around a store.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import msgspec
import trio

from broker.authority.audit.shares import Owners
from broker.authority.audit.store import Store
from broker.core import limits
from broker.core.errors import InternalError, UpstreamError
from broker.core.limits import audit as audit_limits
from broker.core.stderr_log import log_exception
from broker.core.token_bucket import TokenBucket
from broker.ipc.audit import schema
from broker.ipc.audit.schema import Refusal

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
    separate events; those beyond are counted and come out as one event
    when the second is over.  Equal means: in all but the stream's numbers.

    If it continues, the next count comes after two seconds, then after four,
    up to a minute; and where kinds are new without end, all beyond a certain
    pace share one count.  So a flood of a day is a few ten thousand events,
    whatever it is made of.

    The pace, the places and the shared count are each sandbox's own.  A common
    one would let a sandbox that varies its requests use it up, and then the
    denials of every other sandbox would be counted without a name.
    """

    def __init__(self, owners: Owners | None = None) -> None:
        """Set up the counter.

        ``owners`` maps sandboxes to records, None: each is separate.
        """
        self._names = Owners() if owners is None else owners
        self._windows: dict[bytes, _Window] = {}
        self._ends: list[tuple[float, int, bytes]] = []
        """A heap: when each window ends.  Looking through all of them at every
        refusal would let a flood of many kinds take the broker's time."""
        self._opened = 0
        self._owners: dict[str, _Owner] = {}
        self._forgot = -math.inf
        self._strangers = TokenBucket(
            audit_limits.AUDIT_REFUSAL_STRANGERS_PER_SECOND,
            audit_limits.AUDIT_REFUSAL_OWNERS,
        )
        """Kinds of all that is no sandbox: there is no end to names of those."""

    def take(self, event: schema.Event, now: float) -> list[schema.Event]:
        """Return the events to record now, oldest first.

        ``now`` in seconds, of a clock that does not go back.  Raises
        InternalError for an event that cannot be written.
        """
        words = _words(event)
        out = self.due(now)
        key, event = self._key(event, words, now)
        window = self._windows.get(key)
        if window is None:
            self._open(key, _Window(event, now + _WINDOW))
            out.append(event)
        elif window.written < limits.REFUSALS_LOGGED_PER_SECOND:
            window.written += 1
            out.append(event)
        else:
            self._hold(window, event)
        return out

    def due(self, now: float) -> list[schema.Event]:
        """Return the counts of the seconds that are over, and forget them."""
        over: list[bytes] = []
        while self._ends and self._ends[0][0] <= now:
            over.append(heapq.heappop(self._ends)[2])
        out: list[schema.Event] = []
        for key in over:
            window = self._close(key)
            if window.held:
                out.append(msgspec.structs.replace(window.event, count=window.held))
                # The flood may continue: its next window begins where this ended.
                length = min(2 * window.seconds, _LONGEST)
                again = _Window(
                    window.event,
                    now + length,
                    written=limits.REFUSALS_LOGGED_PER_SECOND,
                    seconds=length,
                )
                self._open(key, again)
        return out

    def hold(self, event: schema.Event, now: float) -> None:
        """Count an event again that could not be recorded, for a second later."""
        key, event = self._key(event, _words(event), now)
        if key not in self._windows:
            written = limits.REFUSALS_LOGGED_PER_SECOND
            self._open(key, _Window(event, now + _WINDOW, written=written))
        self._hold(self._windows[key], event)

    @staticmethod
    def _hold(window: _Window, event: schema.Event) -> None:
        """Count a refusal in its window instead of recording it."""
        # Some counts are a worker's claim, and readers of the log add them.
        window.held = min(audit_limits.AUDIT_COUNT, window.held + event.count)
        window.event = event

    def flush(self) -> list[schema.Event]:
        """Return all counts now (before the log is closed)."""
        return self.due(math.inf)

    def deadline(self) -> float:
        """When ``due`` will next have something to say, or infinity."""
        return self._ends[0][0] if self._ends else math.inf

    def _open(self, key: bytes, window: _Window) -> None:
        """Start to count refusals of a kind for a second, and charge its owner."""
        self._windows[key] = window
        self._opened += 1  # orders equal times
        heapq.heappush(self._ends, (window.ends, self._opened, key))
        owner = self._owners.get(self._owner_of(window.event))
        if owner is not None:
            owner.windows += 1

    def _close(self, key: bytes) -> _Window:
        window = self._windows.pop(key)
        owner = self._owners.get(self._owner_of(window.event))
        if owner is not None:
            owner.windows -= 1
        return window

    def _owner_of(self, event: schema.Event) -> str:
        """The name of its record, or the peer's as the kernel knows it, in brackets."""
        # guard: refusals have a budget for each sandbox
        return self._names.of(event.sandbox) or f"<{event.kind} {event.peer}>"

    def _owner(self, event: schema.Event, now: float) -> _Owner | None:
        """Return the owner of an event's budget.

        None: too many owners, no budget left.
        """
        name = self._owner_of(event)
        owner = self._owners.get(name)
        if owner is None:
            if not event.sandbox:
                if self._strangers.early(now) > 0:
                    return None
                self._strangers.take(now)
            self._forget(now)
            if len(self._owners) >= 2 * audit_limits.AUDIT_REFUSAL_OWNERS:
                return None
            owner = self._owners[name] = _Owner()
        return owner

    def _forget(self, now: float) -> None:
        """Forget owners with a whole budget and no open window."""
        if now < self._forgot + _WINDOW:
            return
        self._forgot = now
        for name in [
            name
            for name, owner in self._owners.items()
            if not owner.windows
            and not owner.fresh.early(now, audit_limits.AUDIT_REFUSAL_KEYS_PER_SANDBOX)
        ]:
            del self._owners[name]

    def _key(
        self, event: schema.Event, key: bytes, now: float
    ) -> tuple[bytes, schema.Event]:
        """Return the key by which a refusal is counted: its own, or a joint one."""
        if key in self._windows:
            return key, event
        owner = self._owner(event, now)
        if owner is not None and owner.may_open(now):
            return key, event
        # Too many kinds: one count for all others of this kind, in its name.
        # guard: counted refusals keep their sandbox
        whose = event if owner is not None else schema.StreamRefused()
        shared = _summary(event, sandbox=whose.sandbox, peer=whose.peer)
        return f"{event.kind} {self._owner_of(shared)}".encode(), shared


class _Owner:
    """The budget of one sandbox, or of a peer that is not one."""

    def __init__(self) -> None:
        self.fresh = TokenBucket(
            audit_limits.AUDIT_REFUSAL_KINDS_PER_MINUTE / 60,
            audit_limits.AUDIT_REFUSAL_KEYS_PER_SANDBOX,
        )
        """New kinds that may still get a separate event."""
        self.windows = 0

    def may_open(self, now: float) -> bool:
        """Reserve a window for one more kind of refusal.

        Return False if none is left.
        """
        if self.windows >= audit_limits.AUDIT_REFUSAL_KEYS_PER_SANDBOX:
            return False
        if self.fresh.early(now) > 0:
            return False
        self.fresh.take(now)
        return True


def _summary(event: schema.Event, *, sandbox: str, peer: str) -> schema.Event:
    """Return the event that counts the refusals beyond the budget."""
    if isinstance(event, schema.LogConflict):
        return schema.LogConflict(size=0, peer=peer, reason=_OTHERS, count=event.count)
    shared = (
        schema.LeaseRefused
        if isinstance(event, schema.LeaseRefused)
        else schema.StreamRefused
    )
    return shared(sandbox=sandbox, peer=peer, reason=_OTHERS, count=event.count)


def _words(event: schema.Event) -> bytes:
    """The bytes that equal refusals share.  Raises InternalError for a large one."""
    # guard: refusals over the link are equal in all but their numbers
    return schema.encode(msgspec.structs.replace(event, stream=0, link="", count=1))


class Refusals:
    """Records refusals in a store, equal ones counted.

    A store that fails does not make a refusal an error: nothing takes effect
    that would have to be on record first.  The event is kept and tried again.
    Nor does an event that cannot be written (an internal error): it is logged, and lost.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.owners = Owners()
        """Whose budget a sandbox's refusals and other events are counted to."""
        self._counter = Counter(self.owners)
        self._more = trio.Event()

    async def refused(self, event: Refusal) -> None:
        """Record a refusal as an event, or only count it if it equals an earlier one.

        More of the same are recorded later, as one event with a count.
        """
        try:
            now = self._counter.take(event, trio.current_time())
        except InternalError as error:
            log_exception(error)
            return
        await self._record(now)
        self._more.set()

    async def run(self) -> None:
        """Write the counts when their second is over; until cancelled.

        The counts of that moment are written before it ends.
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
        """Record events; count those again that cannot be written."""
        for event in events:
            try:
                await self._store.record(event)
            except UpstreamError:
                # The store counts its failures; 'brokerctl status' shows them.
                self._counter.hold(event, trio.current_time())
            except InternalError as error:
                # A task of the broker writes them; its failure would end the broker.
                log_exception(error)
