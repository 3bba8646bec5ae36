"""trio's event loop, where the kernel has no room for another entry of an epoll set.

The kernel counts these entries for a user id (``/proc/sys/fs/epoll/max_user_watches``),
so a box can take all that its user may have, and each wait for a new descriptor would
raise ENOSPC.  poll(2), which counts nothing, awaits such a descriptor.

Each process with trio installs it before its loop begins.
"""

from __future__ import annotations

import errno
import math
import select
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import trio
from trio._core import _run
from typing_extensions import override

_FULL = frozenset({errno.ENOSPC, errno.ENOMEM})


class RoomyEpoll:
    """``select.epoll`` as trio uses it (EPOLLONESHOT), and poll(2) for the rest."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._poll = select.poll()
        self._poll.register(epoll.fileno(), select.POLLIN)
        self._beside: set[int] = set()
        """Descriptors without an entry."""

    def fileno(self) -> int:
        """Return the epoll set's descriptor; it is not readable for those beside it."""
        return self._epoll.fileno()

    def register(self, fd: int, mask: int) -> None:
        """Await events of a descriptor, by poll where epoll has no room.

        Raises OSError.
        """
        try:
            self._epoll.register(fd, mask)
        except OSError as error:
            # guard: a full table of epoll entries ends no task
            if error.errno not in _FULL:
                raise
            self._beside.add(fd)
            self._poll.register(fd, mask & ~select.EPOLLONESHOT)

    def modify(self, fd: int, mask: int) -> None:
        """Change the awaited events.

        Raises OSError for a descriptor that is not known.
        """
        if fd not in self._beside:
            self._epoll.modify(fd, mask)
            return
        self.unregister(fd)
        self.register(fd, mask)

    def unregister(self, fd: int) -> None:
        """Stop awaiting a descriptor.  Raises OSError for an unknown one."""
        if fd not in self._beside:
            self._epoll.unregister(fd)
            return
        self._beside.discard(fd)
        with suppress(KeyError):  # its event has come
            self._poll.unregister(fd)

    def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
        """Return descriptors and their events; ``timeout`` in seconds, below 0: none."""
        if not self._beside:
            return self._epoll.poll(timeout, maxevents)
        events: list[tuple[int, int]] = []
        own = self._epoll.fileno()
        for fd, happened in self._poll.poll(math.ceil(max(timeout, -1) * 1000)):
            if fd == own:
                events += self._epoll.poll(0, maxevents)
                continue
            self._poll.unregister(fd)  # once, as trio wants it
            if happened & select.POLLNVAL:
                self._beside.discard(fd)  # closed without our knowledge
            else:
                events.append((fd, happened))
        return events

    def close(self) -> None:
        """Close the epoll set."""
        self._epoll.close()


class _MakeRoom(trio.abc.Instrument):
    @override
    def before_run(self) -> None:
        # trio has no setting for it; a later trio without this field fails here, at once.
        manager: Any = _run.GLOBAL_RUN_CONTEXT.runner.io_manager
        manager._epoll = RoomyEpoll(manager._epoll)  # noqa: SLF001 -- as above


def run(main: Callable[..., Awaitable[None]], *args: object) -> None:
    """``trio.run`` for a program that must outlive a full table of epoll entries."""
    trio.run(main, *args, instruments=[_MakeRoom()], strict_exception_groups=True)
