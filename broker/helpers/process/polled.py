"""Whether something has happened to a descriptor, without waiting (poll(2)).

Host, viewer, session children and brokerctl ask this of pidfds and sockets.
"""

from __future__ import annotations

import select

from broker.wire.memory import is_short_of_memory


def lives(pidfd: int) -> bool:
    """Return whether a pidfd's process is alive, so that facts read by its pid are its own.

    False, too, where the kernel has no memory to say.
    """
    # guard: a process of which nothing is known is not taken for a living one
    return happened(pidfd, select.POLLIN) is False


def happened(fd: int, events: int) -> bool | None:
    """Return whether a descriptor has any of these events, without waiting."""
    poll = select.poll()
    poll.register(fd, events)
    try:
        return bool(poll.poll(0))
    except OSError as error:
        # guard: an end is awaited also without memory for a moment
        if not is_short_of_memory(error):
            raise
        return None
