"""How many connections to the sound server a sandbox has, and how fast they come.

Counted before the server is asked: what the filter ends, which counts them, too,
has been at the server already, which has places for 64 clients in all.  So all
sandboxes together have a budget as well, which leaves some to the user's own
programs, and a part of that is for records whose sandboxes have few.

The viewer counts by this for its sandboxes, ``brokerctl proxy pulse`` for its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from broker.core.errors import RefusedError
from broker.core.fair_share import counted
from broker.core.limits import sound as limits
from broker.core.token_bucket import TokenBucket


class SoundServerPlaces:
    """Those of all sandboxes of one broker."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """How many there are."""
        return self._taken.total()

    @contextmanager
    def one(self, record: str) -> Iterator[None]:
        """Hold a place for a sandbox of a record while the block runs.

        Raises RefusedError when none is left for it.
        """
        # guard: disposables have their record's sound connections
        self._check(self._taken[record])
        with counted(self._taken, record):
            yield

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


class SoundPlaces:
    """Places of one sandbox.  ``pace`` is for the caller that admits another."""

    def __init__(
        self, server: SoundServerPlaces | None = None, record: str = ""
    ) -> None:
        self.pace = TokenBucket(
            limits.PULSE_CONNECTS_PER_SECOND, limits.PULSE_CONNECTS_BURST
        )
        self._server, self._record = server or SoundServerPlaces(), record
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place among the connections while the block runs.

        Raises RefusedError when none is left.
        """
        most = limits.PULSE_CONNECTIONS
        # guard: streams of sound at one time
        if self._taken >= most:
            raise RefusedError(f"the sandbox already has {most} sound connections")
        # guard: sound connections of all
        with self._server.one(self._record):
            self._taken += 1
            try:
                yield
            finally:
                self._taken -= 1
