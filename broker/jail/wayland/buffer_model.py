"""Objects with state that hold pixels: shared memory, its pools, and buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.scene.geometry import Rect

if TYPE_CHECKING:
    from broker.jail.wayland.model import Surface
    from broker.jail.wayland.ports import GpuMemory, PoolFile


class Mapping:
    """One place where the compositor has mapped a pool's file, of ``size`` bytes.

    It lives while the pool is there and shows this one, or a buffer of it lives.
    """

    __slots__ = ("buffers", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.buffers = 0


class Pool(ProtocolObject):
    """A wl_shm_pool.  Its file lives while it or a buffer of it lives.

    ``mapping`` is where the compositor has it; it may be shorter than the pool
    that was resized, until a buffer reaches further.  ``pictures`` are the buffers
    that were copied last (``scene/pictures.py``), ``shown`` those that surfaces show.
    """

    __slots__ = ("buffers", "file", "mapping", "pictures", "shown", "size")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.file: PoolFile | None = None
        self.size = 0
        self.buffers = 0
        self.mapping = Mapping(0)
        self.pictures: list[Buffer] = []
        self.shown: set[Buffer] = set()


class GpuPicture(NamedTuple):
    """A buffer's memory of the GPU: each dma-buf once.

    ``descriptors``: how many the compositor holds, one for each plane.
    """

    memory: tuple[GpuMemory, ...]
    descriptors: int


class Buffer(ProtocolObject):
    """A wl_buffer.

    ``holds`` counts states not yet sent that attach it, ``on`` the surfaces that show it.
    A client may destroy a buffer before the commit that shows it is applied;
    the compositor learns of that only when nothing holds it any more, and then it has
    ``ended``.

    ``shown_by`` is the surface for whose picture it was copied last, ``stale`` the rows
    that were drawn since, and ``generation`` the pool file's at that time.
    """

    __slots__ = (
        *("doomed", "ended", "form", "generation", "gpu", "height", "holds"),
        *("mapping", "on"),
        *("offset", "part", "pool", "shown_by", "stale", "stride", "width"),
    )

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.width = 0
        self.height = 0
        self.offset = 0
        self.stride = 0
        self.pool: Pool | None = None
        self.gpu: GpuPicture | None = None
        self.mapping: Mapping | None = None
        self.form = 0
        self.holds = 0
        self.on = 0
        self.doomed = False
        self.ended = False
        self.part: BufferPart | None = None
        self.shown_by: Surface | None = None
        self.stale = (0, 0)
        self.generation = 0


class BufferPart(ProtocolObject):
    """Our wl_buffer that shows the pixels ``rect`` of a client's one."""

    __slots__ = ("buffer", "rect")

    def __init__(self, buffer: Buffer, rect: Rect) -> None:
        super().__init__("wl_buffer", 1)
        self.buffer = buffer
        self.rect = rect
