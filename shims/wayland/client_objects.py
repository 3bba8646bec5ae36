"""The objects of one program, as far as this end has to know them.

Pools, buffers and surfaces for pixels; what passes descriptors; and times of
presentation.  Whatever else a program makes is passed on unseen.
"""

from __future__ import annotations

import struct
import time
from typing import Callable, Dict, Optional, Union

from shims.wayland.drawn_pixels import (
    NOTHING,
    Box,
    ProgramBuffer,
    ProgramPool,
    ProgramSurface,
    Region,
    add,
)

_BOUND = {
    "wl_compositor",
    "wl_shm",
    "wl_data_device_manager",
    "zwp_primary_selection_device_manager_v1",
    "wp_viewporter",
    "wp_presentation",
}
_MAKES = {
    ("wl_display", 1): "wl_registry",
    ("wl_data_device_manager", 1): "wl_data_device",
    ("zwp_primary_selection_device_manager_v1", 1): "zwp_primary_selection_device_v1",
}
"""Requests whose first argument is the id of a new object of this interface."""
_WITH_DESCRIPTOR = {
    ("wl_shm", 0),
    ("wl_data_offer", 1),
    ("zwp_primary_selection_offer_v1", 0),
}
"""Requests with a descriptor; all others have none."""
_OFFERS = {
    "wl_data_device": "wl_data_offer",
    "zwp_primary_selection_device_v1": "zwp_primary_selection_offer_v1",
}
Thing = Optional[Union[ProgramBuffer, ProgramPool, ProgramSurface]]
_SECOND = 1_000_000_000
_FOUR = struct.Struct("<iiii")


class ClientObjects:
    """``kinds`` has the interface of each object that matters, ``things`` its state."""

    def __init__(
        self,
        send: Callable[[ProgramBuffer, Region], None],
        grow: Callable[[ProgramPool, int], None],
    ) -> None:
        """Set up; ``send``: before a commit; ``grow``: for a pool."""
        self._send, self.grow = send, grow
        self.kinds: Dict[int, str] = {1: "wl_display"}
        self.things: Dict[int, Union[ProgramBuffer, ProgramPool, ProgramSurface]] = {}
        self._clock = 1

    def close(self) -> None:
        """Forget all objects, and close the files of their pools."""
        for thing in self.things.values():
            pool = thing.pool if isinstance(thing, ProgramBuffer) else thing
            if isinstance(pool, ProgramPool):
                pool.dead, pool.buffers = True, 0
                pool.release()
        self.things.clear()

    def descriptors(self, oid: int, opcode: int) -> int:
        """Return how many descriptors a request has."""
        return int((self.kinds.get(oid, ""), opcode) in _WITH_DESCRIPTOR)

    def make(self, oid: int, kind: str, thing: Thing = None) -> None:
        """Note a new object."""
        self.forget(oid)
        self.kinds[oid] = kind
        if thing is not None:
            self.things[oid] = thing

    def forget(self, oid: int) -> None:
        """Remove an object that was destroyed; releases its pool."""
        self.kinds.pop(oid, None)
        thing = self.things.pop(oid, None)
        if isinstance(thing, ProgramBuffer):
            thing.pool.buffers -= 1
            thing.pool.release()
        elif isinstance(thing, ProgramPool):
            thing.dead = True
            thing.release()

    # -- from the program

    def request(self, oid: int, opcode: int, body: bytes) -> None:
        """Note what a request does.  Raises struct.error if too short."""
        kind = self.kinds.get(oid)
        if kind is None:
            return
        made = _MAKES.get((kind, opcode))
        if made is not None:
            self.make(struct.unpack_from("<I", body)[0], made)
        elif kind == "wl_surface":
            self._surface(oid, opcode, body)
        elif kind == "wl_registry" and opcode == 0:
            self._bind(body)
        elif kind == "wl_compositor" and opcode == 0:
            self.make(struct.unpack_from("<I", body)[0], "wl_surface", ProgramSurface())
        elif kind == "wl_shm_pool":
            self._pool(oid, opcode, body)
        elif kind == "wp_viewporter" and opcode == 1:
            _, of = struct.unpack_from("<II", body)
            surface = self.things.get(of)
            if isinstance(surface, ProgramSurface):
                surface.shaped = True
        elif kind == "wp_presentation" and opcode == 1:
            self.make(struct.unpack_from("<II", body)[1], "wp_presentation_feedback")
        elif (kind, opcode) == ("wl_buffer", 0):
            self.forget(oid)

    def _bind(self, body: bytes) -> None:
        (length,) = struct.unpack_from("<I", body, 4)
        name = body[8 : 8 + length - 1].decode("ascii", "replace")
        if name in _BOUND:
            (new,) = struct.unpack_from("<I", body, 12 + (length + 3 & ~3))
            self.make(new, name)

    def _pool(self, oid: int, opcode: int, body: bytes) -> None:
        """Note a request of a pool: a buffer, a size, its end."""
        pool = self.things.get(oid)
        if not isinstance(pool, ProgramPool):
            return
        if opcode == 0:
            new, *shape = struct.unpack_from("<IiiiiI", body)
            self.make(new, "wl_buffer", ProgramBuffer(pool, *shape))
            pool.buffers += 1
        elif opcode == 1:
            self.forget(oid)
        elif opcode == 2:
            (size,) = struct.unpack_from("<i", body)
            if size > pool.size:
                pool.size = size
                self.grow(pool, size)

    def _surface(self, oid: int, opcode: int, body: bytes) -> None:
        """Note a request of a surface; a commit sends its pixels."""
        surface = self.things[oid]
        assert isinstance(surface, ProgramSurface)
        if opcode == 6:
            found = surface.commit()
            if found is not None:
                self._send(*found)
        elif opcode == 1:
            buffer = self.things.get(struct.unpack_from("<I", body)[0])
            surface.pending = buffer if isinstance(buffer, ProgramBuffer) else None
            surface.attached = True
        elif opcode == 2:
            surface.surface_damage = add(surface.surface_damage, _box(body))
        elif opcode == 9:
            surface.damage = add(surface.damage, _box(body))
        elif opcode == 7:
            surface.shaped = True
        elif opcode == 8:
            surface.scale, surface.reshaped = struct.unpack_from("<i", body)[0], True
        elif opcode == 0:
            for buffer in surface.pictures:
                buffer.shown_by = None
            self.forget(oid)

    # -- from the compositor

    def event(self, oid: int, opcode: int, message: bytearray) -> None:
        """Note what an event does; convert presentation times in it."""
        if oid == 1 and opcode == 1:
            self.forget(struct.unpack_from("<I", message, 8)[0])
            return
        kind = self.kinds.get(oid, "")
        if opcode == 0 and kind in _OFFERS:
            self.make(struct.unpack_from("<I", message, 8)[0], _OFFERS[kind])
        elif (kind, opcode) == ("wp_presentation", 0):
            (self._clock,) = struct.unpack_from("<I", message, 8)
        elif (kind, opcode) == ("wp_presentation_feedback", 1):
            self._to_clock(message)

    def _to_clock(self, message: bytearray) -> None:
        """Convert presentation times to CLOCK_REALTIME, as waypipe has them."""
        high, low, nanoseconds = struct.unpack_from("<III", message, 8)
        try:
            shift = time.clock_gettime_ns(self._clock)
        except OSError:
            return  # not a clock of this kernel
        shift -= time.clock_gettime_ns(time.CLOCK_REALTIME)
        shown = max(0, (high << 32 | low) * _SECOND + nanoseconds + shift)
        seconds, nanoseconds = divmod(shown, _SECOND)
        high, low = seconds >> 32 & 0xFFFFFFFF, seconds & 0xFFFFFFFF
        struct.pack_into("<III", message, 8, high, low, nanoseconds)


def _box(body: bytes) -> Box:
    left, top, width, height = _FOUR.unpack_from(body)
    if width <= 0 or height <= 0:
        return NOTHING
    return (left, top, left + width, top + height)
