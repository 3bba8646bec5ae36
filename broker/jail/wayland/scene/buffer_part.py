"""Crop by a second wl_buffer, where the compositor cannot crop by a viewport.

wlroots before 0.16 (sway 1.7, Debian 12) takes from a viewport's source rectangle
only its size when it draws with pixman, that is without a GPU: the picture begins at
the buffer's corner.  An application that draws a shadow around itself (Chromium,
GTK) was shown shifted by the width of the shadow, and without its right and lower
edge.  A buffer of the same pool that begins at the crop's first pixel needs no source
rectangle, and no copy.

It is not done everywhere, because it costs a second buffer for each of the
application's, and because a viewport also crops at a fraction of a pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.buffer_model import Buffer, BufferPart
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.formats import PIXEL_BYTES
from broker.jail.wayland.scene.geometry import Rect, SourceRect, View

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.jail.wayland.state import ClientState

UNSET_SOURCE = SourceRect(-256, -256, -256, -256)


def needed(first: Mapping[str, tuple[int, int]]) -> bool:
    """Return whether a compositor with these globals may ignore a viewport's origin.

    No protocol tells it.  ``zwlr_export_dmabuf_manager_v1`` is what wlroots alone has
    (KWin has its layer shell and its data control, and sway has KWin's idle and
    decoration protocols), and its pixman renderer has no ``zwp_linux_dmabuf_v1``.  Later
    versions of it are taken for this one, and show the same picture.  KWin 5.27 without a
    GPU does not: it draws the first picture of a buffer with longer rows askew.
    """
    # A security context, which hides it, is younger than the mistake in wlroots.
    wlroots = "zwlr_export_dmabuf_manager_v1" in first
    return wlroots and "zwp_linux_dmabuf_v1" not in first


def of(core: ClientState, surface: Surface, view: View | None) -> Rect | None:
    """Return the part of the surface's buffer that shows ``view``, in buffer pixels.

    None if a viewport does: it begins at the corner, or not at a pixel of the
    buffer's, or is of a buffer that has no pool or is turned.
    """
    buffer = surface.attached
    if not core.crops_by_buffer or view is None or buffer is None:
        return None
    if buffer.pool is None or surface.content.transform:
        return None
    x, y, w, h = view.source
    scale = surface.content.scale
    if scale == 1:
        # Rounded inwards, as the viewport is.
        left, top = -(-x // 256), -(-y // 256)
        right, bottom = (x + w) // 256, (y + h) // 256
    elif x % 256 or y % 256 or w % 256 or h % 256:
        return None
    else:
        left, top = x // 256 * scale, y // 256 * scale
        right, bottom = (x + w) // 256 * scale, (y + h) // 256 * scale
    part = Rect(left, top, right - left, bottom - top)
    return part if (left or top) and fits(buffer, part) else None


def fits(buffer: Buffer, part: Rect) -> bool:
    """Return whether a part is at least a pixel, inside the buffer and its pool.

    wl_shm counts whole rows from the part's first pixel, so the last one may end
    behind what the compositor has mapped of the pool, which a resize does not change.
    """
    pool = buffer.pool
    # guard: a part ends inside of what is mapped
    mapped = pool.mapping.size if pool is not None else 0
    return (
        pool is not None
        and pool.file is not None
        and part.w > 0
        and part.h > 0
        and part.x + part.w <= buffer.width
        and part.y + part.h <= buffer.height
        and _first(buffer, part) + part.h * buffer.stride <= mapped
    )


def _first(buffer: Buffer, part: Rect) -> int:
    """Where in the pool the part begins, in bytes."""
    row = part.x * PIXEL_BYTES[buffer.form]
    return buffer.offset + part.y * buffer.stride + row


def chosen(
    core: ClientState, surface: Surface, buffer: Buffer, part: Rect | None
) -> int:
    """Return the compositor's id of that part of the buffer, or of all of it."""
    # guard: a part lies inside its buffer
    if part is not None and not fits(buffer, part):
        part = None
    surface.part = part
    return buffer.sid if part is None else _make(core, buffer, part)


def crop(
    core: ClientState, surface: Surface, view: View | None
) -> tuple[View | None, bool]:
    """Attach the part that shows ``view``; return the viewport still needed for it.

    Also whether another part is attached than before.
    """
    if not core.crops_by_buffer:
        return view, False
    part = of(core, surface, view)
    if part == surface.part:
        changed = False
    elif surface.attached is None or surface.attached.dead:
        # The client took its buffer away, and the compositor keeps the last picture:
        # stretched over the new size until the next one comes, but inside of it.
        part, changed = surface.part, False
        surface.stale = True
    else:
        sid = chosen(core, surface, surface.attached, part)
        core.up.data += emit.attach(surface.sid, sid, 0, 0)
        changed = True
    if view is None or part is None:
        return view, changed
    return View(UNSET_SOURCE, view.size), changed


def _make(core: ClientState, buffer: Buffer, rect: Rect) -> int:
    """Create the wl_buffer of a part, or return the id of the same one as before."""
    pool = buffer.pool
    assert pool is not None
    former = buffer.part
    if former is not None and former.rect == rect:
        return former.sid
    if former is None:
        # guard: parts are counted
        core.usage.take("buffers", 1)
    else:
        core.end_own(former)
    part = BufferPart(buffer, rect)
    core.own("wl_buffer", part)
    part.events = dispatch.own_events("wl_buffer", _EVENTS)
    buffer.part = part
    core.up.data += emit.create_buffer(
        *(pool.sid, part.sid, _first(buffer, rect), rect.w, rect.h),
        *(buffer.stride, buffer.form),
    )
    return part.sid


def _release(core: ClientState, part: BufferPart) -> None:
    """The compositor has done with a part: the client may draw into its buffer."""
    # guard: no release of a buffer that is gone
    if not part.buffer.dead:
        core.down.data += _released(part.buffer.cid)


_released = emit.event("wl_buffer", "release")
_EVENTS: dispatch.Handlers = {"release": _release}
