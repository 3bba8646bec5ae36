"""wl_shm, pools and buffers: memory of a sandbox that the compositor reads.

Why no resize reaches the compositor
    It may move where the pool is mapped, and weston 10's pixman renderer goes
    on reading where a picture was when it was attached: it dies of the next one.  So a
    pool that grew is mapped again, by a pool beside the former one, as soon as a buffer
    reaches beyond the mapping.  Earlier buffers keep their mapping, which is counted as
    a pool of its while they live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.buffer_model import Buffer, Mapping, Pool
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Raw, Rules
from broker.jail.wayland.protocol.formats import PIXEL_BYTES
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import Fd, ProtocolFault
from broker.jail.wayland.scene import held_buffers
from broker.jail.wayland.scene.held_buffers import INVALID_FD

if TYPE_CHECKING:
    from broker.jail.wayland.ports import PoolFile
    from broker.jail.wayland.state import ClientState


INVALID_FORMAT = 0
INVALID_STRIDE = 1
_DEEPEST_PIXEL = 8
"""Bytes: 16 bits in each of four channels."""


def shm_format(core: ClientState, shm: ProtocolObject, form: int) -> None:
    """Announce a format of the compositor if the filter knows its pixels' size."""
    if form in PIXEL_BYTES:
        core.down.data += _format(shm.cid, form)


_format = emit.event("wl_shm", "format")


def create_pool(
    core: ClientState, shm: ProtocolObject, new_id: int, fd: Fd, size: int
) -> None:
    """Create a shared memory pool; the client's file is checked first."""
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
            shm.cid, INVALID_FD, f"rejected shared memory: {error}"
        ) from error
    pool.file, pool.size, pool.mapping = file, size, Mapping(size)
    core.pools.add(pool)
    core.up.add(emit.create_pool(shm.sid, pool.sid, size), [file.export()])


def _account(core: ClientState, shm: ProtocolObject, size: int) -> None:
    """Count a pool's memory and messages.  Raises ProtocolFault."""
    # guard: pool size
    if not 0 < size <= limits.WAYLAND_POOL_BYTES:
        raise ProtocolFault(shm.cid, INVALID_STRIDE, f"invalid pool size: {size} bytes")
    core.usage.take("pools", 1)
    # guard: pools cost more
    core.messages += limits.WAYLAND_POOL_MESSAGES
    # guard: shared memory counted
    core.usage.take("shm_bytes", size)


def resize(core: ClientState, pool: Pool, size: int) -> None:
    """Grow a shared memory pool (wl_shm_pool.resize); see ``_remap``."""
    # guard: pool growth
    if not pool.size <= size <= limits.WAYLAND_POOL_BYTES or pool.file is None:
        raise ProtocolFault(
            pool.cid, INVALID_FD, f"invalid resize from {pool.size} to {size} bytes"
        )
    core.usage.take("shm_bytes", size - pool.size)
    try:
        pool.file.grow(size)
    except ValueError as error:
        raise ProtocolFault(
            pool.cid, INVALID_FD, f"rejected shared memory: {error}"
        ) from error
    pool.size = size


def _remap(core: ClientState, pool: Pool, file: PoolFile) -> None:
    """Have the compositor map the whole of a pool that grew.

    A descriptor and a mapping each time, so it has the pace of large pictures.
    """
    former = pool.mapping
    # guard: kept mappings counted
    if former.buffers:
        core.usage.take("pools", 1)
        core.usage.take("shm_bytes", former.size)
    # guard: mapping again has a pace
    core.spend_pixels(limits.WAYLAND_MAPPING_PIXELS)
    pool.mapping = Mapping(pool.size)
    # guard: pools are mapped again
    core.up.data += emit.pool_destroy(pool.sid)
    core.replace_sid(pool)
    message = emit.create_pool(core.shm, pool.sid, pool.size)
    core.up.add(message, [file.export()])


def destroy_pool(core: ClientState, pool: Pool) -> None:
    """Destroy a pool; its file stays while buffers show parts of it."""
    if core.crops_by_buffer:
        core.bury(pool)  # a part of a buffer may still be made from it
    else:
        core.destroy(pool)
    held_buffers.release_pool(core, pool)


def create_buffer(
    core: ClientState,
    pool: Pool,
    new_id: int,
    offset: int,
    width: int,
    height: int,
    stride: int,
    form: int,
) -> None:
    """Create a buffer inside a pool, after checking its bounds and format."""
    side = limits.WAYLAND_BUFFER_SIDE
    # guard: a row by its format
    deep = PIXEL_BYTES.get(form)
    if deep is None:
        raise ProtocolFault(pool.cid, INVALID_FORMAT, f"invalid format {form:#x}")
    # guard: buffer sides
    if not (0 < width <= side and 0 < height <= side and offset >= 0):
        raise ProtocolFault(
            pool.cid, INVALID_STRIDE, f"invalid buffer {width}x{height} at {offset}"
        )
    if not width * deep <= stride <= side * _DEEPEST_PIXEL:
        raise ProtocolFault(
            pool.cid, INVALID_STRIDE, f"invalid stride {stride} for {width} pixels"
        )
    # guard: buffer inside pool
    if offset + stride * height > pool.size:
        raise ProtocolFault(
            pool.cid, INVALID_STRIDE, "the buffer extends beyond its pool"
        )
    core.usage.take("buffers", 1)
    if offset + stride * height > pool.mapping.size and pool.file is not None:
        _remap(core, pool, pool.file)
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
    core: ClientState,
    manager: ProtocolObject,
    new_id: int,
    r: int,
    g: int,
    b: int,
    a: int,
) -> None:
    """Create a buffer of one pixel, without a pool."""
    core.usage.take("buffers", 1)
    buffer = core.make(new_id, "wl_buffer", 1)
    assert isinstance(buffer, Buffer)
    buffer.width = buffer.height = 1
    core.up.data += _create_pixel(manager.sid, buffer.sid, r, g, b, a)


_create_pixel = emit.request(
    "wp_single_pixel_buffer_manager_v1", "create_u32_rgba_buffer"
)


def destroy_buffer(core: ClientState, buffer: Buffer) -> None:
    """Destroy a buffer: at once for the client, for the compositor once unused."""
    # guard: buffers held until shown
    if buffer.holds:
        buffer.doomed = True
        core.bury(buffer)
        return
    held_buffers.end(core, buffer)


def release(
    core: ClientState, buffer: ProtocolObject, data: bytes, pos: int, size: int
) -> None:
    """Forward wl_buffer.release to the client.  Hot: once for each frame."""
    out = core.down.data
    out += buffer.cid.to_bytes(4, "little")
    out += data[pos + 4 : pos + size]


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
