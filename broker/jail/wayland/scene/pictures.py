"""Which rows of a buffer its copy is made from, and when.

The compositor maps no file that a sandbox has: our file takes its place, into
which the client's pixels are read when it commits them.  A client promises that what
lies outside of its damage is as the surface showed it before (wl_surface.damage), so for
each of a surface's last buffers we keep the rows that were damaged since its copy was
made, and read those alone: a cursor that blinks costs its rows and no window.

A promise that is not kept shows older pixels of the same buffer, as a compositor does
that keeps textures.

A large picture is copied in slices, and the commit waits meanwhile: ``UnfinishedError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core import limits
from broker.jail.wayland.buffer_model import Buffer, Pool
from broker.jail.wayland.model import UNSET, Surface, SurfaceState
from broker.jail.wayland.protocol.wire import ProtocolFault, UnfinishedError
from broker.jail.wayland.scene.held_buffers import INVALID_FD

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

Rows = tuple[int, int]
"""From the first one to the one after the last."""

_NONE: Rows = (0, 0)
_OF_A_SURFACE = 4
_OF_A_POOL = 8
"""Buffers that are remembered; for one more the oldest is copied as a whole."""


def take(core: ClientState, surface: Surface, state: SurfaceState) -> None:
    """Copy what this commit shows.

    Raises UnfinishedError when a part is left: the commit is read again.  Raises
    ProtocolFault when the file has not got the bytes.
    """
    buffer = shown(surface, state)
    if buffer is None or buffer.pool is None or buffer.pool.file is None:
        return
    try:
        # guard: a commit's picture is copied
        _copy(core, surface, state, buffer)
    except ValueError as error:
        raise ProtocolFault(
            buffer.cid, INVALID_FD, f"shared memory: {error}"
        ) from error


def shown(surface: Surface, state: SurfaceState) -> Buffer | None:
    """Return the buffer whose pixels a commit shows, or only damages."""
    buffer = state.buffer
    if buffer is UNSET:
        if not (state.damage or state.buffer_damage):
            return None
        cached = surface.cached
        buffer = cached.buffer if cached is not None else UNSET
        if buffer is UNSET:
            buffer = surface.attached
    return buffer if isinstance(buffer, Buffer) and not buffer.ended else None


def _copy(
    core: ClientState, surface: Surface, state: SurfaceState, buffer: Buffer
) -> None:
    """Copy the next rows of a client's buffer, and note what is drawn.

    Raises UnfinishedError before the last rows.
    """
    pool, stride = buffer.pool, buffer.stride
    assert pool is not None
    file = pool.file
    assert file is not None
    shown = ((one.offset, one.stride * one.height) for one in pool.shown)
    generation = file.keep(buffer.offset, stride * buffer.height, shown)
    drawn = _drawn(surface, buffer, state)
    if core.copied is None:
        # guard: copies that were given back are made again
        known = buffer.shown_by is surface and buffer.generation == generation
        rows = _joined(buffer.stale, drawn) if known else (0, buffer.height)
    else:
        rows = core.copied
    top, bottom = rows
    # guard: a large picture is copied in parts
    end = min(bottom, top + max(1, limits.WAYLAND_COPIED_AT_ONCE // stride))
    if end > top:
        file.refresh(buffer.offset + top * stride, (end - top) * stride)
    if end < bottom:
        core.copied = (end, bottom)
        raise UnfinishedError
    core.copied = None
    buffer.generation = generation
    _note(surface, buffer, pool, drawn)


def _drawn(surface: Surface, buffer: Buffer, state: SurfaceState) -> Rows:
    """Return the rows of the buffer that a commit damages."""
    scale, transform = surface.shape
    content = surface.content
    rows = _NONE
    for _, y, _, h in state.buffer_damage or ():
        rows = _joined(rows, (y, y + h))
    if state.damage:
        shaped = transform or content.source is not None or content.size is not None
        if shaped or not _SHAPES.isdisjoint(vars(state)):
            return (0, buffer.height)
        for _, y, _, h in state.damage:
            rows = _joined(rows, (y * scale, (y + h) * scale))
    return max(0, rows[0]), min(rows[1], buffer.height)


_SHAPES = frozenset({"scale", "transform", "source", "size"})


def _joined(one: Rows, two: Rows) -> Rows:
    """Return the rows of both, and those between them."""
    if one[0] >= one[1]:
        return two
    if two[0] >= two[1]:
        return one
    return min(one[0], two[0]), max(one[1], two[1])


def _note(surface: Surface, buffer: Buffer, pool: Pool, drawn: Rows) -> None:
    """Record that a buffer's copy is up to date, and others lack the new drawing."""
    buffer.shown_by, buffer.stale = surface, _NONE
    if surface.pictures == pool.pictures == [buffer]:
        return  # the usual case of a pool for each buffer, which is drawn into
    for other in surface.pictures:
        alike = (other.width, other.height) == (buffer.width, buffer.height)
        if other.shown_by is not surface or not alike:
            other.shown_by = None
        elif other is not buffer:
            other.stale = _joined(other.stale, drawn)
    for other in pool.pictures:
        # Pixels of one buffer that are copied are another's, too, where they overlap.
        # guard: buffers that overlap are copied again
        if other is not buffer and _overlap(other, buffer):
            other.shown_by = None
    _remember(surface.pictures, buffer, _OF_A_SURFACE)
    _remember(pool.pictures, buffer, _OF_A_POOL)


def _overlap(one: Buffer, two: Buffer) -> bool:
    first, second = sorted((one, two), key=lambda b: b.offset)
    return first.offset + first.stride * first.height > second.offset


def _remember(kept: list[Buffer], buffer: Buffer, most: int) -> None:
    if buffer not in kept:
        kept.append(buffer)
        if len(kept) > most:
            kept.pop(0).shown_by = None
