"""wl_shm, pools and buffers: memory of a sandbox that the compositor reads.

Why no resize reaches the compositor
    It may move where the pool is mapped, and weston 10's pixman renderer goes
    on reading where a picture was when it was attached: it dies of the next one.  So a
    pool that grew is mapped again, by a pool beside the former one, as soon as a buffer
    reaches beyond the mapping.  Earlier buffers keep their mapping, which is counted as
    a pool of its own while they live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core import limits
from broker.wayland.model import UNSET, Buffer, Mapping, Pool, Unset
from broker.wayland.protocol import emit
from broker.wayland.protocol.dispatch import FORWARD, Classes, Raw, Rules
from broker.wayland.protocol.formats import PIXEL_BYTES
from broker.wayland.protocol.objects import ProtocolObject
from broker.wayland.protocol.wire import Fd, ProtocolFault

if TYPE_CHECKING:
    from broker.wayland.filter import WaylandFilter
    from broker.wayland.ports import PoolFile


INVALID_FORMAT = 0
INVALID_STRIDE = 1
INVALID_FD = 2
_DEEPEST_PIXEL = 8
"""Bytes: 16 bits in each of four channels."""


def shm_format(core: WaylandFilter, shm: ProtocolObject, form: int) -> None:
    """What the client may use of what the compositor draws."""
    if form in PIXEL_BYTES:
        core.down.data += _format(shm.cid, form)


_format = emit.event("wl_shm", "format")


def create_pool(
    core: WaylandFilter, shm: ProtocolObject, new_id: int, fd: Fd, size: int
) -> None:
    """A client's file: checked by the machine before anything else sees it."""
    try:
        _account(core, shm, size)
        pool = core.make(new_id, "wl_shm_pool", shm.version)
    except ProtocolFault:
        core.machine.close(fd)  # ours since the message was read
        raise
    assert isinstance(pool, Pool)
    try:
        file = core.machine.admit_pool(fd, size)
    except ValueError as error:
        raise ProtocolFault(
            shm.cid, INVALID_FD, f"shared memory refused: {error}"
        ) from error
    pool.file, pool.size, pool.mapping = file, size, Mapping(size)
    core.pools.add(pool)
    core.up.add(emit.create_pool(shm.sid, pool.sid, size), [file.export()])


def _account(core: WaylandFilter, shm: ProtocolObject, size: int) -> None:
    # guard: pool size
    if not 0 < size <= limits.WAYLAND_POOL_BYTES:
        raise ProtocolFault(shm.cid, INVALID_STRIDE, f"a pool of {size} bytes")
    core.usage.take("pools", 1)
    # guard: shared memory counted
    core.usage.take("shm_bytes", size)


def resize(core: WaylandFilter, pool: Pool, size: int) -> None:
    """A pool only grows (wl_shm_pool.resize); see ``_map_anew``."""
    # guard: pool growth
    if not pool.size <= size <= limits.WAYLAND_POOL_BYTES or pool.file is None:
        raise ProtocolFault(
            pool.cid, INVALID_FD, f"a pool of {pool.size} bytes resized to {size}"
        )
    core.usage.take("shm_bytes", size - pool.size)
    try:
        pool.file.grow(size)
    except ValueError as error:
        raise ProtocolFault(
            pool.cid, INVALID_FD, f"shared memory refused: {error}"
        ) from error
    pool.size = size


def _map_anew(core: WaylandFilter, pool: Pool, file: PoolFile) -> None:
    """Have the compositor map the whole of a pool that grew.

    A descriptor and a mapping each time, so it has the pace of large pictures.
    """
    former = pool.mapping
    # guard: kept mappings counted
    if former.buffers:
        core.usage.take("pools", 1)
        core.usage.take("shm_bytes", former.size)
    # guard: mapping anew has a pace
    core.spend_pixels(limits.WAYLAND_MAPPING_PIXELS)
    pool.mapping = Mapping(pool.size)
    # guard: pools are mapped anew
    core.up.data += emit.pool_destroy(pool.sid)
    core.replace_sid(pool)
    message = emit.create_pool(core.shm, pool.sid, pool.size)
    core.up.add(message, [file.export()])


def destroy_pool(core: WaylandFilter, pool: Pool) -> None:
    """The pool's file stays while buffers show parts of it."""
    if core.crops_by_buffer:
        core.bury(pool)  # a part of a buffer may still be made from it
    else:
        core.destroy(pool)
    _release(core, pool)


def create_buffer(
    core: WaylandFilter,
    pool: Pool,
    new_id: int,
    offset: int,
    width: int,
    height: int,
    stride: int,
    form: int,
) -> None:
    """A picture inside the pool; the bounds are checked here, not trusted."""
    side = limits.WAYLAND_BUFFER_SIDE
    # guard: a row by its format
    deep = PIXEL_BYTES.get(form)
    if deep is None:
        raise ProtocolFault(pool.cid, INVALID_FORMAT, f"no pixel format {form:#x}")
    # guard: buffer sides
    if not (0 < width <= side and 0 < height <= side and offset >= 0):
        raise ProtocolFault(
            pool.cid, INVALID_STRIDE, f"a buffer of {width}x{height} at {offset}"
        )
    if not width * deep <= stride <= side * _DEEPEST_PIXEL:
        raise ProtocolFault(
            pool.cid, INVALID_STRIDE, f"{width} pixels in a stride of {stride}"
        )
    # guard: buffer inside pool
    if offset + stride * height > pool.size:
        raise ProtocolFault(
            pool.cid, INVALID_STRIDE, "a buffer reaches beyond its pool"
        )
    core.usage.take("buffers", 1)
    if offset + stride * height > pool.mapping.size and pool.file is not None:
        _map_anew(core, pool, pool.file)
    buffer = core.make(new_id, "wl_buffer", 1)
    assert isinstance(buffer, Buffer)
    buffer.width, buffer.height = width, height
    buffer.offset, buffer.stride, buffer.form = offset, stride, form
    buffer.pool, buffer.mapping = pool, pool.mapping
    pool.buffers += 1
    pool.mapping.buffers += 1
    core.up.data += emit.create_buffer(
        pool.sid, buffer.sid, offset, width, height, stride, form
    )


def create_pixel(
    core: WaylandFilter,
    manager: ProtocolObject,
    new_id: int,
    r: int,
    g: int,
    b: int,
    a: int,
) -> None:
    """A buffer of one pixel, without a pool."""
    core.usage.take("buffers", 1)
    buffer = core.make(new_id, "wl_buffer", 1)
    assert isinstance(buffer, Buffer)
    buffer.width = buffer.height = 1
    core.up.data += _create_pixel(manager.sid, buffer.sid, r, g, b, a)


_create_pixel = emit.request(
    "wp_single_pixel_buffer_manager_v1", "create_u32_rgba_buffer"
)


def destroy_buffer(core: WaylandFilter, buffer: Buffer) -> None:
    """Ends at once for the client; for the compositor when no state holds it."""
    # guard: buffers held until shown
    if buffer.holds:
        buffer.doomed = True
        core.bury(buffer)
        return
    _end(core, buffer)


def _end(core: WaylandFilter, buffer: Buffer) -> None:
    core.destroy(buffer)
    core.usage.give("buffers", 1)
    if buffer.part is not None:
        core.end_own(buffer.part)
        core.usage.give("buffers", 1)
        buffer.part = None
    pool, mapping = buffer.pool, buffer.mapping
    if pool is None or mapping is None:
        return
    pool.buffers -= 1
    mapping.buffers -= 1
    if mapping is not pool.mapping and not mapping.buffers:
        core.usage.give("pools", 1)
        core.usage.give("shm_bytes", mapping.size)
    _release(core, pool)


def _release(core: WaylandFilter, pool: Pool) -> None:
    """Give the pool's file back once neither it nor a buffer needs it."""
    if pool.dead and not pool.buffers and pool.file is not None:
        pool.file.close()
        pool.file = None
        if core.crops_by_buffer:
            core.destroy(pool)
        core.pools.discard(pool)
        core.usage.give("pools", 1)
        core.usage.give("shm_bytes", pool.size)


def release(
    core: WaylandFilter, buffer: ProtocolObject, data: bytes, pos: int, size: int
) -> None:
    """Hot: one for each frame."""
    out = core.down.data
    out += buffer.cid.to_bytes(4, "little")
    out += data[pos + 4 : pos + size]


def show(core: WaylandFilter, buffer: Buffer) -> None:
    """An attach of this buffer has just been sent."""
    pool = buffer.pool
    if pool is not None and pool.file is not None:
        try:
            # guard: unsealed files are copied
            pool.file.refresh(buffer.offset, buffer.stride * buffer.height)
        except ValueError as error:
            raise ProtocolFault(
                buffer.cid, INVALID_FD, f"shared memory: {error}"
            ) from error
    core.spend_pixels(buffer.width * buffer.height)
    buffer.holds -= 1
    if buffer.doomed and not buffer.holds:
        core.doomed.append(buffer)


def unhold(core: WaylandFilter, buffer: Buffer | Unset | None) -> None:
    """A held state let go of a buffer without sending it."""
    if buffer is None or buffer is UNSET:
        return
    buffer.holds -= 1
    if buffer.doomed and not buffer.holds:
        _end(core, buffer)


def finish(core: WaylandFilter) -> None:
    """After a commit: end the buffers that were destroyed before it."""
    if core.doomed:
        doomed, core.doomed = core.doomed, []
        for buffer in doomed:
            if not buffer.holds:
                _end(core, buffer)


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("wl_buffer", "destroy"): destroy_buffer,
    ("wl_shm", "create_pool"): create_pool,
    ("wl_shm_pool", "create_buffer"): create_buffer,
    ("wl_shm_pool", "destroy"): destroy_pool,
    ("wl_shm_pool", "resize"): resize,
    ("wp_single_pixel_buffer_manager_v1", "destroy"): FORWARD,
    ("wp_single_pixel_buffer_manager_v1", "create_u32_rgba_buffer"): create_pixel,
}
EVENTS: Rules = {
    ("wl_buffer", "release"): Raw(release),
    ("wl_shm", "format"): shm_format,
}
CLASSES: Classes = {
    "wl_buffer": Buffer,
    "wl_shm_pool": Pool,
}
