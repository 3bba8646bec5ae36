"""Xwayland's shared memory: a pool goes up when a buffer of it is first attached.

Xwayland 22.1 makes a memory file, pool and buffer for every pixmap, and shows few of them:
941 pools for 117 commits were seen.  The filter allows 512 at a time.
"""

from __future__ import annotations

import os
from weakref import WeakSet

from shims.x11.objects import Maybe, Relay, WireObject


class LazyPool:
    """The memory of buffers; closed with the last object that has it."""

    def __init__(self, shm: WireObject, fd: int, size: int) -> None:
        self.shm, self.fd, self.size = shm, fd, size

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    __del__ = close


class LazyBuffer:
    """A part of a pool."""

    def __init__(self, pool: LazyPool, offset: int, w: int, h: int, *rest: int) -> None:
        self.pool, self.size, self.words = pool, (w, h), (offset, w, h, *rest)


class Pools:
    """Handles wl_shm and wl_shm_pool of Xwayland's."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._pools: WeakSet[LazyPool] = WeakSet()
        relay.attach(self)

    def show(self, buffer: Maybe) -> None:
        """Create a buffer and its pool at the compositor, if they are not there yet."""
        if buffer is None or buffer.up or buffer.dead:
            return
        part: LazyBuffer = buffer.data
        words = os.dup(part.pool.fd), part.pool.size
        pool = self._relay.create(part.pool.shm, "create_pool", *words)
        self._relay.raise_up(buffer)
        self._relay.ask(pool, "create_buffer", buffer, *part.words)
        self._relay.release(pool)

    def close(self) -> None:
        """Close what Xwayland left."""
        for pool in self._pools:
            pool.close()

    def _wl_shm_create_pool(self, shm: WireObject, new: int, *words: int) -> None:
        pool = LazyPool(shm, *words)
        self._pools.add(pool)
        self._relay.make_local("wl_shm_pool", 1, new, pool)

    def _wl_shm_pool_resize(self, proxy: WireObject, size: int) -> None:
        proxy.data.size = size

    def _wl_shm_pool_create_buffer(
        self, proxy: WireObject, new: int, *words: int
    ) -> None:
        """Keep the buffer here: ``show`` passes it on when it is first attached."""
        self._relay.make_local("wl_buffer", 1, new, LazyBuffer(proxy.data, *words))
