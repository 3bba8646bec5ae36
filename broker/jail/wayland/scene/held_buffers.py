"""When a buffer's picture is sent, and when a buffer or a pool really ends.

A client may destroy a buffer that a state not yet sent attaches: it ends for the
compositor when nothing holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.buffer_model import Buffer, GpuPicture, Pool
from broker.jail.wayland.model import UNSET, Unset
from broker.jail.wayland.protocol import emit

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

INVALID_FD = 2
"""Error code, as wl_shm numbers it."""


def end(core: ClientState, buffer: Buffer) -> None:
    """Destroy a buffer that nothing holds, at the compositor too."""
    buffer.ended = True
    core.destroy(buffer)
    core.usage.give("buffers", 1)
    if buffer.part is not None:
        core.end_own(buffer.part)
        core.usage.give("buffers", 1)
        buffer.part = None
    _let_go(core, buffer)


def release_pool(core: ClientState, pool: Pool) -> None:
    """Close the pool's file once neither it nor a buffer needs it."""
    if pool.dead and not pool.buffers and pool.file is not None:
        pool.file.close()
        pool.file = None
        if core.crops_by_buffer:
            core.destroy(pool)
        core.pools.discard(pool)
        core.usage.give("pools", 1)
        core.usage.give("shm_bytes", pool.size)


def release_gpu(core: ClientState, picture: GpuPicture) -> None:
    """Close the memory of a GPU's picture, and count it out."""
    core.usage.give("gpu_planes", picture.descriptors)
    for memory in picture.memory:
        core.usage.give("gpu_bytes", memory.size)
        core.gpu_memory.discard(memory)
        memory.close()


def enter(buffer: Buffer) -> None:
    """A surface shows a buffer from now on."""
    buffer.on += 1
    if buffer.pool is not None:
        buffer.pool.shown.add(buffer)


def left(core: ClientState, buffer: Buffer | None) -> None:
    """Count that a surface no longer shows a buffer; release it if it was the last."""
    if buffer is not None:
        buffer.on -= 1
        if buffer.pool is not None and not buffer.on:
            buffer.pool.shown.discard(buffer)
        _let_go(core, buffer)


def _let_go(core: ClientState, buffer: Buffer) -> None:
    """Release a buffer's memory that neither client nor compositor has any more."""
    # The compositor keeps descriptors and memory of what a surface shows.
    # guard: memory is counted while it is shown
    if not buffer.ended or buffer.on:
        return
    if buffer.gpu is not None:
        release_gpu(core, buffer.gpu)
        buffer.gpu = None
    pool, mapping = buffer.pool, buffer.mapping
    if pool is None or mapping is None:
        return
    buffer.mapping = None
    pool.buffers -= 1
    mapping.buffers -= 1
    if mapping is not pool.mapping and not mapping.buffers:
        core.usage.give("pools", 1)
        core.usage.give("shm_bytes", mapping.size)
    release_pool(core, pool)


def show(core: ClientState, buffer: Buffer) -> None:
    """An attach of this buffer has just been sent."""
    core.spend_pixels(buffer.width * buffer.height)
    buffer.holds -= 1
    if buffer.doomed and not buffer.holds:
        core.doomed.append(buffer)


def unhold(core: ClientState, buffer: Buffer | Unset | None) -> None:
    """Count that a held state drops a buffer without sending it."""
    if buffer is None or buffer is UNSET:
        return
    buffer.holds -= 1
    if buffer.doomed and not buffer.holds:
        end(core, buffer)


def replace(core: ClientState, buffer: Buffer | None) -> None:
    """Release the former buffer of a held state that has another buffer now."""
    if buffer is None:
        return
    unhold(core, buffer)
    # guard: a buffer that is never shown is given back
    if not (buffer.holds or buffer.on or buffer.dead):
        core.down.data += _release(buffer.cid)


_release = emit.event("wl_buffer", "release")


def finish(core: ClientState) -> None:
    """Destroy, after a commit, the buffers that were destroyed before it."""
    if core.doomed:
        doomed, core.doomed = core.doomed, []
        for buffer in doomed:
            if not buffer.holds:
                end(core, buffer)
