"""How many connections to the sound server a sandbox has, and how fast they come.

Counted before the server is asked: what the filter ends, which counts them, too,
has been at the server already, which has places for 64 clients in all.  So all
sandboxes together have a budget as well, which leaves some to the user's own
programs, and a part of that is for records whose sandboxes have few.  A connection
beyond it waits for the end of another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import trio

from broker.core.errors import RefusedError, VitrailError
from broker.core.fair_share import counted
from broker.core.limits import sound as limits
from broker.net.caller_paces import CallPaces


class SoundServerPlaces:
    """Those of all sandboxes of one broker."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self.released = trio.Event()
        """Set when the next connection ends."""
        self.paces = CallPaces(
            limits.PULSE_CONNECTS_PER_SECOND, limits.PULSE_CONNECTS_BURST
        )
        """A pace for each record: a disposable does not begin with a fresh one."""
        self._absence: tuple[float, VitrailError] | None = None

    @property
    def taken(self) -> int:
        """How many there are."""
        return self._taken.total()

    def note_absence(self, error: VitrailError) -> None:
        """Note that the sound server could not be reached."""
        self._absence = trio.current_time() + limits.PULSE_ABSENT_SECONDS, error

    def require_server(self) -> None:
        """Raise the last error for a moment: an attempt costs a process."""
        # guard: an absent sound server is not tried for each connection
        if self._absence is not None and trio.current_time() < self._absence[0]:
            error = self._absence[1]
            raise type(error)(error.message, hint=error.hint)

    @contextmanager
    def one(self, record: str) -> Iterator[None]:
        """Hold a place for a sandbox of a record while the block runs.

        Raises RefusedError when none is left for it.
        """
        self.check(record)
        try:
            with counted(self._taken, record):
                yield
        finally:
            self.released.set()
            self.released = trio.Event()

    def check(self, record: str) -> None:
        """Raise RefusedError unless a sandbox of a record may have one more."""
        # guard: disposables have their record's sound connections
        self._check(self._taken[record])

    def _check(self, own: int) -> None:
        """Raise RefusedError unless a record with ``own`` may have one more."""
        most = limits.PULSE_CONNECTIONS_ALL
        if own >= limits.PULSE_CONNECTIONS_FEW:
            # guard: sound connections for those with few
            most -= limits.PULSE_CONNECTIONS_KEPT
        if self.taken >= most:
            raise RefusedError(
                f"all sandboxes together already have {self.taken} sound connections",
                hint="end a program that plays sound in another sandbox",
            )


class SoundSlot:
    """The place of one connection, which gives it up while the user is asked."""

    def __init__(self, quota: SoundPlaces) -> None:
        self._quota = quota
        self._stack: ExitStack | None = None

    def release(self) -> None:
        """Give the place up."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    async def hold(self) -> None:
        """Take a place, unless it is held; wait for one.  Raises RefusedError."""
        if self._stack is None:
            await self._quota.wait_for_release()
            self._stack = ExitStack()
            self._stack.enter_context(self._quota.one())


class SoundPlaces:
    """Places of one sandbox."""

    def __init__(self, server: SoundServerPlaces, record: str) -> None:
        self.server, self._record = server, record
        self._taken = 0
        self._waiting = 0

    def must_wait(self) -> bool:
        """Return whether another connection has to wait."""
        try:
            self._check()
        except RefusedError:
            return True
        return self.server.paces.early(self._record) > 0

    @asynccontextmanager
    async def reserve(
        self, waits: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    ) -> AsyncIterator[SoundSlot]:
        """Hold a place among the connections while the block runs.

        Waits for the record's turn and a place, after a call of ``waits``.  Raises
        RefusedError if too many wait, and if no connection ends in time.
        """
        waiting = self._waiting + self._taken - limits.PULSE_CONNECTIONS
        # guard: few sound connections wait for a place
        if waiting >= limits.PULSE_WAITING:
            raise RefusedError(
                f"{waiting} sound connections of the sandbox already wait"
            )
        slot = SoundSlot(self)
        self._waiting += 1
        try:
            if self.must_wait():
                await waits()
            # guard: pace of streams of sound
            await self.server.paces.wait(self._record)
            await slot.hold()
        finally:
            self._waiting -= 1
        try:
            yield slot
        finally:
            slot.release()

    async def wait_for_release(self) -> None:
        """Wait until there is a place; raise RefusedError if there is none in time."""
        deadline = trio.current_time() + limits.PULSE_WAIT_SECONDS
        while True:
            try:
                return self._check()
            except RefusedError:
                with trio.move_on_at(deadline) as timeout:
                    await self.server.released.wait()
                if timeout.cancelled_caught:
                    raise

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place among the connections while the block runs.

        Raises RefusedError when none is left.
        """
        self._check()
        # guard: sound connections of all
        with self.server.one(self._record):
            self._taken += 1
            try:
                yield
            finally:
                self._taken -= 1

    def _check(self) -> None:
        """Raise RefusedError if the sandbox may have no other connection."""
        most = limits.PULSE_CONNECTIONS
        # guard: streams of sound at one time
        if self._taken >= most:
            raise RefusedError(f"the sandbox already has {most} sound connections")
        self.server.check(self._record)
