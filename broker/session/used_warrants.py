"""Which warrants and tickets were used, as all session children know it.

A viewer that was taken over repeats an order.  What was permitted once is done once, so a
child notes a warrant before it acts by it, in memory that the starter's descendants share
and the viewer does not have.  A child that is killed in between has used it.

The starter makes that memory; each session child notes in it.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from broker.core.errors import RefusedError

_ENTRY = struct.Struct("=16sd")
"""A digest, and the time of CLOCK_MONOTONIC from which it may be forgotten."""
_PLACES = 1 << 17
"""More than children can be forked in the time for which one warrant is good, two thousand
a second: without room the user's own orders would be refused, too."""
_TRIED = 64
"""Places that one warrant may have."""
_USED = "the permission for this operation was already used"


class UsedWarrants:
    """A table in shared memory: it has no more than ``_PLACES`` entries."""

    def __init__(self) -> None:
        """Of this process and those that it forks."""
        self._table = mmap.mmap(-1, _PLACES * _ENTRY.size)
        self._lock = os.memfd_create("used-warrants")

    def take(
        self,
        signed: bytes,
        purpose: str,
        until: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Note a use.

        ``until``: when it has expired; from then on the use may be forgotten.  Raises
        RefusedError where it was used before or has expired, or there is no room.
        """
        key = hashlib.blake2b(purpose.encode() + signed, digest_size=16).digest()
        with self._locked():
            # One reading for both, under the lock: a child that was preempted since it
            # checked the age would find its entry forgotten.
            now = clock()
            # guard: a use that may be forgotten is refused for its age
            if now > until:
                raise RefusedError(
                    "the permission for this operation has expired",
                    hint="try the operation again",
                )
            free = -1
            for place in self._places(key):
                known, end = _ENTRY.unpack_from(self._table, place)
                if end < now:
                    free = place if free < 0 else free
                elif known == key:
                    raise RefusedError(_USED)
            if free < 0:
                raise RefusedError(_USED)
            _ENTRY.pack_into(self._table, free, key, until)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of all session children; the kernel frees it when one dies."""
        fcntl.lockf(self._lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._lock, fcntl.LOCK_UN)

    @staticmethod
    def _places(key: bytes) -> Iterator[int]:
        first = int.from_bytes(key[:4], "little")
        for number in range(first, first + _TRIED):
            yield number % _PLACES * _ENTRY.size
