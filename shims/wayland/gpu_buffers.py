"""zwp_linux_dmabuf_v1 for the programs of a guest: their GPU's pictures become wl_shm.

The host knows nothing of it: the program's object is a ``wl_shm`` there, of the same id,
and each object that is made of it a ``wl_shm_pool``.  That of a buffer's parameters gets
the size of the picture, and the picture's bytes at each commit, as every pool.  What is
not needed of a pool keeps the ids of both sides the same, which have no gaps.

Offered are XRGB and ARGB, in one plane.  The bytes are linear, however the GPU has
them, so no modifier ("implicit") is as good as LINEAR.
"""

from __future__ import annotations

import fcntl
import os
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Callable, List, Optional

from shims.wayland.drawn_pixels import ProgramBuffer, ProgramPool
from shims.wayland.gpu_memory import GpuPicture

if TYPE_CHECKING:
    from shims.wayland.client_objects import ClientObjects
    from shims.wayland.gpu_memory import Gpu

DMABUF, PARAMS = "zwp_linux_dmabuf_v1", "zwp_linux_buffer_params_v1"
FEEDBACK = "zwp_linux_dmabuf_feedback_v1"
GPU_NAME = 0xFFFF0000
"""Of our global in a program's registry; the host counts from 1."""
_VERSION = 4
_FORMATS = {0x34325258: 1, 0x34325241: 0}
"""DRM's XR24 and AR24, and wl_shm's numbers of them."""
_LINEAR, _IMPLICIT = 0, (1 << 56) - 1
_PAIRS = [(form, modifier) for form in _FORMATS for modifier in (_LINEAR, _IMPLICIT)]
_SEALS = (
    fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
)
_SIDE, _STRIDE = 16384, 131072
"""As the host's filter has them of GPU buffers."""

Tell = Callable[[bytes, List[int]], None]
Open = Callable[[int], int]


class GpuBuffers:
    """The GPU's objects of one program."""

    def __init__(
        self, gpu: "Gpu", objects: "ClientObjects", tell: Tell, begin: Open
    ) -> None:
        """Set up; ``tell`` queues an event; ``begin`` opens a file: size to id."""
        self._gpu, self._objects = gpu, objects
        self._tell, self._begin = tell, begin
        self._shm: Optional[int] = None

    def global_event(self, registry: int, message: "bytes | bytearray") -> None:
        """Announce a GPU buffer global to the program after the host's wl_shm."""
        name, length = struct.unpack_from("<II", message, 8)
        if message[16 : 16 + length - 1] == b"wl_shm" and not self._gpu.lost:
            self._shm = name
            body = struct.pack("<I", GPU_NAME) + _text(DMABUF)
            body += struct.pack("<I", _VERSION)
            self._tell(_message(registry, 0, body), [])

    def bind(self, registry: int, body: bytes) -> bytes:
        """Return the request that binds our global, as the host gets it."""
        if self._shm is None:
            raise ValueError("the global does not exist")
        (length,) = struct.unpack_from("<I", body, 4)
        version, new = struct.unpack_from("<II", body, 8 + (length + 3 & ~3))
        self._objects.make(new, DMABUF)
        for form, modifier in _PAIRS if version < _VERSION else ():
            if modifier == _LINEAR:
                self._tell(_message(new, 0, struct.pack("<I", form)), [])
            if version == 3:
                halves = (modifier >> 32, modifier & 0xFFFFFFFF)
                self._tell(_message(new, 1, struct.pack("<3I", form, *halves)), [])
        words = struct.pack("<I", self._shm) + _text("wl_shm")
        return _message(registry, 0, words + struct.pack("<II", 1, new))

    def request(self, oid: int, opcode: int, body: bytes, fds: "List[int]") -> bytes:
        """Translate a request for the host; ``fds`` has its descriptor."""
        kind = self._objects.kinds[oid]
        if kind == DMABUF:
            return self._of_dmabuf(oid, opcode, body)
        if opcode == 0:  # destroy, as of a pool
            self._objects.forget(oid)
            return _message(oid, 1)
        pool = self._objects.things.get(oid)
        if kind == PARAMS and isinstance(pool, ProgramPool):
            if opcode == 1:
                self._add(pool, body, fds)
                return b""
            if opcode == 2:  # with an id of the compositor's, which we have none of
                self._tell(_message(oid, 1), [])
                return b""
            if opcode == 3:
                return self._create(oid, pool, body)
        raise ValueError(f"invalid request {opcode} on {kind}")

    def _of_dmabuf(self, oid: int, opcode: int, body: bytes) -> bytes:
        """Translate a request of zwp_linux_dmabuf_v1."""
        # The host has no request that ends a wl_shm: its id stays in use.
        if opcode == 0:
            return b""
        (new,) = struct.unpack_from("<I", body)
        rid = self._begin(4)
        if opcode == 1:
            self._objects.make(new, PARAMS, ProgramPool(-1, 0, rid))
        elif opcode in (2, 3):
            self._objects.make(new, FEEDBACK)
            self._describe(new)
        else:
            raise ValueError(f"invalid request {opcode} on {DMABUF}")
        return _message(oid, 1 << 11, struct.pack("<Ii", new, 4))

    def _add(self, pool: ProgramPool, body: bytes, fds: "List[int]") -> None:
        """Take a plane's descriptor.  Raises ValueError."""
        plane, offset, stride, high, low = struct.unpack_from("<5I", body)
        modifier = high << 32 | low
        # guard: a picture of a guest's program is in one plane
        if not fds or pool.drawn or plane or modifier not in (_LINEAR, _IMPLICIT):
            raise ValueError(f"unsupported plane {plane} or modifier {modifier:x}")
        pool.fd = fds.pop()
        pool.drawn = GpuPicture(self._gpu, pool.fd, offset, stride)

    def _create(self, oid: int, pool: ProgramPool, body: bytes) -> bytes:
        """Make a buffer of a GPU's picture.  Raises ValueError."""
        new, width, height, form, flags = struct.unpack_from("<IiiII", body)
        picture = pool.drawn
        if picture is None or picture.size or form not in _FORMATS or flags:
            raise ValueError("a GPU buffer has no memory or an unsupported format")
        # guard: a picture of a guest's program has a size
        if not (0 < width <= _SIDE and 0 < height <= _SIDE):
            raise ValueError(f"invalid buffer size {width} x {height}")
        # guard: a row of a guest's picture is in its memory
        if not width * 4 <= picture.stride <= _STRIDE:
            raise ValueError(f"invalid stride {picture.stride} for {width} pixels")
        picture.width = width
        pool.size = picture.size = picture.stride * height
        self._objects.grow(pool, pool.size)
        shape = (0, width, height, picture.stride, _FORMATS[form])
        self._objects.make(new, "wl_buffer", ProgramBuffer(pool, *shape))
        pool.buffers += 1
        words = struct.pack("<IiiiiI", new, *shape)
        size = struct.pack("<i", pool.size)
        return _message(oid, 2, size) + _message(oid, 0, words)

    def _describe(self, oid: int) -> None:
        """Send a program the formats and the device."""
        size = struct.pack("<I", 16 * len(_PAIRS))
        device = _array(struct.pack("<Q", self._gpu.device))
        numbers = _array(struct.pack(f"<{len(_PAIRS)}H", *range(len(_PAIRS))))
        self._tell(_message(oid, 1, size), [os.dup(_table())])
        events = ((2, device), (4, device), (6, bytes(4)), (5, numbers), (3, b""))
        for opcode, body in (*events, (0, b"")):
            self._tell(_message(oid, opcode, body), [])


@lru_cache(maxsize=None)
def _table() -> int:
    """Make the table of formats: one for all programs, which none of them can change."""
    table = os.memfd_create("formats", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(table, b"".join(struct.pack("<IxxxxQ", *pair) for pair in _PAIRS))
    # guard: no program of a guest changes the formats of the others
    fcntl.fcntl(table, fcntl.F_ADD_SEALS, _SEALS)
    return table


def _message(oid: int, word: int, body: bytes = b"") -> bytes:
    return struct.pack("<II", oid, 8 + len(body) << 16 | word) + body


def _text(text: str) -> bytes:
    return _array(text.encode() + b"\0")


def _array(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data + bytes(-len(data) % 4)
