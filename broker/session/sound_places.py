"""How many connections to the sound server one sandbox has, and how fast they come.

Counted before the server is asked: what the filter ends, which counts them, too,
has been at the server already, which has places for 64, of everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.pace import Pace


class SoundPlaces:
    """Those of one sandbox.  ``pace`` is for whoever lets one more begin."""

    def __init__(self) -> None:
        self.pace = Pace(limits.PULSE_CONNECTS_PER_SECOND, limits.PULSE_CONNECTS_BURST)
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place.  Raises RefusedError when there is none left."""
        most = limits.PULSE_CONNECTIONS
        if self._taken >= most:
            raise RefusedError(f"the sandbox has {most} sound connections")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
