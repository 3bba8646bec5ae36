"""Xwayland's shared memory: a pool goes up when a buffer of it is first attached.

Xwayland 22.1 makes a memory file, pool and buffer for every pixmap, and shows few of them:
941 pools for 117 commits were seen.  The filter allows 512 at a time.
"""

from __future__ import annotations

import os
from typing import List

from shims.x11.objects import Maybe, Relay, WaylandObject
from shims.x11.wire import BridgeError


class LazyPool:
    """The memory of buffers; closed with the last one."""

    def __init__(self, shm: WaylandObject, fd: int, size: int) -> None:
        self.shm, self.fd, self.size, self.users = shm, fd, size, 1

    def drop(self) -> None:
        """One user less."""
        self.users -= 1
        if not self.users:
            os.close(self.fd)
            self.fd = -1


class LazyBuffer:
    """A part of a pool."""

    def __init__(self, pool: LazyPool, offset: int, w: int, h: int, *rest: int) -> None:
        self.pool, self.size, self.words = pool, (w, h), (offset, w, h, *rest)


class Pools:
    """Handles wl_shm, wl_shm_pool and wl_buffer of Xwayland's."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._pools: List[LazyPool] = []
        relay.serve("wl_shm", create_pool=self._create)
        relay.serve("wl_shm_pool", resize=self._resize, create_buffer=self._buffer)
        relay.serve("wl_shm_pool", destroy=self._destroy)
        relay.serve("wl_buffer", destroy=self._end_buffer)

    def show(self, buffer: Maybe) -> None:
        """Make a buffer known to the compositor."""
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
            if pool.fd >= 0:
                os.close(pool.fd)

    def _create(self, shm: WaylandObject, new: int, fd: int, size: int) -> None:
        pool = LazyPool(shm, fd, size)
        self._relay.make_local("wl_shm_pool", 1, new, pool)
        self._pools = [p for p in self._pools if p.fd >= 0] + [pool]

    def _resize(self, proxy: WaylandObject, size: int) -> None:
        proxy.data.size = size

    def _buffer(self, proxy: WaylandObject, new: int, *words: int) -> None:
        if proxy.dead:
            raise BridgeError("Xwayland uses a pool that it destroyed")
        self._relay.make_local("wl_buffer", 1, new, LazyBuffer(proxy.data, *words))
        proxy.data.users += 1

    def _destroy(self, proxy: WaylandObject) -> None:
        proxy.data.drop()
        self._relay.forget(proxy)

    def _end_buffer(self, proxy: WaylandObject) -> None:
        proxy.data.pool.drop()
        if proxy.up:
            self._relay.release(proxy)
        else:
            self._relay.forget(proxy)
