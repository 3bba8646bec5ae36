"""The pump's hot path in C, where it was built; the same in Python without it.

Whatever a stream does in a way of its own is Python's (``engine.py``).  A
stream that only flows, by splice, costs a few system calls a turn, and at many
small messages or short streams the interpreter costs as much again: ``_turns.c``
takes such streams' turns to their end, and gives a stream back for good when one
of its directions fails.  It carries bytes from pipe to socket and looks at none.

Not used where it was not built, nor with ``VITRAIL_RELAY_PYTHON=1``.

Only the pump runs it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from broker.core.limits import relay as relay_limits

# Here: a pump cannot open files once it is confined.
try:
    from broker.helpers.pump._turns import Turns
except ImportError:
    _BUILT = False
else:
    _BUILT = True

MANY = 4
"""Ready at once: more than a bulk stream and its answer.  Then a bulk stream's
turn is one pipe long, as it comes again soon enough."""


@dataclass(frozen=True, slots=True)
class TurnWay:
    """One direction as the C part leaves it.  ``pipe`` is there while held."""

    source: int
    mask: int
    state: int
    held: int
    count: int
    error: int
    pipe: tuple[int, int]


@dataclass(frozen=True, slots=True)
class StreamPair:
    """A stream as the C part leaves it: ``active`` as of time.monotonic()."""

    token: int
    active: float
    ways: tuple[TurnWay, TurnWay]


Events = list[tuple[int, int]]
Over = list[tuple[int, int, int]]
"""Streams of which both directions ended, and are closed: token, bytes of each."""


class Accelerator:
    """``_turns.Turns`` with names instead of positions."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.adopt = turns.adopt
        self.domains = turns.domains

    def wait(self, until: float) -> tuple[float, Events, list[StreamPair], Over]:
        """Run the C part's turns until ``until`` (monotonic; negative: without end).

        A turn waits for events, splices between sockets and pipes, shuts down an ended
        direction, and closes the sockets of a pair that is over.  Returns earlier when an event belongs to no pair, a pair leaves or is over:
        the time, those events, those pairs.
        """
        now, events, left, over = self._turns.wait(until)
        return now, events, [_pair(*one) for one in left], over

    def release(self, fd: int) -> StreamPair:
        """Let go of the pair with this socket.  Raises KeyError."""
        return _pair(*self._turns.release(fd))

    def look(self, fd: int) -> StreamPair:
        """Return the state of the pair with this socket.  Raises KeyError."""
        return _pair(*self._turns.look(fd))


_Numbers = tuple[int, int, int, int, int, int, int, int]


def _pair(token: int, active: float, a: _Numbers, b: _Numbers) -> StreamPair:
    return StreamPair(token, active, (TurnWay(*a[:6], a[6:]), TurnWay(*b[:6], b[6:])))


def available() -> bool:
    """Return whether the C part was built and VITRAIL_RELAY_PYTHON is not set."""
    return _BUILT and not os.environ.get("VITRAIL_RELAY_PYTHON")


def accelerator(epoll: int) -> Accelerator | None:
    """Return the C part for an epoll set's descriptor, None if it is not used."""
    if not available():
        return None
    return Accelerator(
        Turns(
            epoll,
            relay_limits.RELAY_PIPE_BYTES,
            relay_limits.RELAY_ROUNDS,
            MANY,
            relay_limits.RELAY_PIPES_POOLED,
        )
    )
