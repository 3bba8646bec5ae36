"""Settings of one end of a connection.

Every process of the broker uses it.
"""

from __future__ import annotations

from dataclasses import dataclass

from broker.wire import calls


@dataclass(frozen=True)
class Habits:
    """How one end of a connection treats its calls."""

    most_calls: int = calls.CALLS
    """Open at one time, in each direction."""
    message_bytes: int = calls.MESSAGE_BYTES
    follows_cancelled: bool = False
    """A caller that is cancelled gives a droppable call up and waits for its answer, so
    that it can undo what was done; else it leaves at once."""
    sends_cancels: bool = True
    """A caller that leaves gives a droppable call up; else the call is finished, and a
    far end that gives one up breaks the protocol."""
    waits_for_room: bool = False
    """A caller waits while too many calls are open; else it is refused."""
    ends_by_handler: bool = False
    """A PeerError of a handler ends the connection; else it is the answer."""


ORDINARY = Habits()
"""The habits of a connection that sets no others."""
