"""wl_compositor, wl_surface, regions, viewports, feedback.

Requests here only change what the next commit will apply (``commit.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland import budget
from broker.jail.wayland.buffer_model import Buffer
from broker.jail.wayland.handlers import windows
from broker.jail.wayland.input_model import OwnSurface
from broker.jail.wayland.model import (
    EVERYWHERE,
    UNSET,
    Region,
    Surface,
    SurfaceState,
    Viewport,
)
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Raw, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault, bad_message
from broker.jail.wayland.scene import commit, held_buffers, promote
from broker.jail.wayland.scene.geometry import SourceRect, clamp

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


# Error codes, as the protocols number them.
SURFACE_INVALID_SCALE = 0
SURFACE_INVALID_TRANSFORM = 1
SURFACE_INVALID_OFFSET = 3
SURFACE_DEFUNCT_ROLE = 4
VIEWPORTER_EXISTS = 0
VIEWPORT_BAD_VALUE = 0
VIEWPORT_NO_SURFACE = 3

_FAR = limits.WAYLAND_COORDINATE
_OP_BYTES = 100
"""Approximate memory of one rectangle in a region."""


# -- surfaces --------------------------------------------------------------------------


def create_surface(core: ClientState, compositor: ProtocolObject, new_id: int) -> None:
    core.usage.take("surfaces", 1)
    surface = core.make(new_id, "wl_surface", compositor.version)
    core.up.data += emit.create_surface(compositor.sid, surface.sid)


def create_region(core: ClientState, compositor: ProtocolObject, new_id: int) -> None:
    core.make(new_id, "wl_region", compositor.version, server=False)


def attach(
    core: ClientState, surface: Surface, buffer: Buffer | None, dx: int, dy: int
) -> None:
    """Hold a buffer until the surface's next commit.  Raises ProtocolFault."""
    pending = surface.pending
    if dx or dy:
        if surface.version >= 5:
            raise ProtocolFault(
                surface.cid, SURFACE_INVALID_OFFSET, "attach requires the offset 0,0"
            )
        pending.dx, pending.dy = dx, dy
    replaced = pending.buffer
    if buffer is not None:
        buffer.holds += 1
    pending.buffer = buffer
    if replaced is not UNSET:
        held_buffers.unhold(core, replaced)


def offset(_core: ClientState, surface: Surface, dx: int, dy: int) -> None:
    surface.pending.dx, surface.pending.dy = dx, dy


def damage(
    _core: ClientState, surface: Surface, x: int, y: int, w: int, h: int
) -> None:
    """Hold damage in surface coordinates until the next commit."""
    held = surface.pending.damage
    if held is None:
        held = surface.pending.damage = []
    if w > 0 and h > 0:
        _add_damage(held, x, y, w, h)


def damage_buffer(
    _core: ClientState, surface: Surface, x: int, y: int, w: int, h: int
) -> None:
    """Hold damage in buffer coordinates until the next commit."""
    held = surface.pending.buffer_damage
    if held is None:
        held = surface.pending.buffer_damage = []
    if w > 0 and h > 0:
        _add_damage(held, x, y, w, h)


def _add_damage(
    held: list[tuple[int, int, int, int]], x: int, y: int, w: int, h: int
) -> None:
    """Add a rectangle to the damage, its numbers bounded.

    Too many become everything.
    """
    # guard: damage bounded
    if len(held) >= limits.WAYLAND_DAMAGE:
        held[:] = [EVERYWHERE]
    elif x >= -_FAR and y >= -_FAR and x + w <= _FAR and y + h <= _FAR:
        held.append((x, y, w, h))
    else:
        left, top = clamp(x, -_FAR, _FAR), clamp(y, -_FAR, _FAR)
        held.append(
            (left, top, clamp(x + w, left, _FAR) - left, clamp(y + h, top, _FAR) - top)
        )


def frame(core: ClientState, surface: Surface, new_id: int) -> None:
    """Hold a frame callback until the next commit, within the limit."""
    frames = surface.pending.frames
    if frames is None:
        frames = surface.pending.frames = []
    # guard: callbacks bounded
    if len(frames) >= limits.WAYLAND_CALLBACKS:
        raise core.too_much("too many frame callbacks in one commit")
    frames.append(core.make(new_id, "wl_callback", 1, server=False))


# An application's opaque region is not passed on. Frames are opaque by default, and a
# claim that pixels are opaque cannot be checked without reading them. Where the claim
# is false, compositors do not draw the windows below and show the previous pixels
# there: another window, as through a hole. Our own backing is opaque and says so, so
# nothing below a window is drawn in vain; only the backing itself is, under each
# window. If a record allows translucent windows the claim is passed on, because
# there it can hide nothing.
def set_opaque_region(
    core: ClientState, surface: Surface, region: Region | None
) -> None:
    """Set the opaque region, if the record lets windows be translucent.

    The filter cannot check this claim that nothing below need be drawn. With pixels
    that are translucent all the same, the compositor shows what it drew there last:
    another window, as through a hole in an opaque frame. Our own backing is opaque and
    says so, so only who may be translucent is believed.
    """
    # guard: no client claims to be opaque
    if core.rules.translucent:
        claimed = region is not None and region.ops and not region.joined
        surface.pending.opaque = region.rectangles() if region and claimed else None


def set_input_region(
    _core: ClientState, surface: Surface, region: Region | None
) -> None:
    """Set the pending input region.

    Input that a surface refuses is swallowed by its frame, so a click goes to the
    application or to no client.
    """
    surface.pending.input = None if region is None else region.rectangles()


def set_buffer_scale(_core: ClientState, surface: Surface, scale: int) -> None:
    """Hold a buffer's scale until the next commit.  Raises ProtocolFault."""
    # guard: buffer scale
    if not 1 <= scale <= limits.WAYLAND_SCALE:
        raise ProtocolFault(
            surface.cid, SURFACE_INVALID_SCALE, f"invalid buffer scale {scale}"
        )
    surface.pending.scale = scale


def set_buffer_transform(_core: ClientState, surface: Surface, transform: int) -> None:
    """Hold a buffer's transform until the next commit.  Raises ProtocolFault."""
    # guard: buffer transform
    if not 0 <= transform <= 7:
        raise ProtocolFault(
            surface.cid, SURFACE_INVALID_TRANSFORM, f"invalid transform {transform}"
        )
    surface.pending.transform = transform


def commit_surface(
    core: ClientState, surface: Surface, _data: bytes, _pos: int, size: int
) -> None:
    if size != 8:
        raise bad_message(surface.cid, "wl_surface.commit with arguments")
    commit.commit(core, surface)


def destroy_surface(core: ClientState, surface: Surface) -> None:
    """Destroy a surface.  Raises ProtocolFault while its window remains."""
    promote.end_promoted_below(core, surface)
    xdg = surface.xdg
    if xdg is not None and surface.version >= 6:
        raise ProtocolFault(
            surface.cid, SURFACE_DEFUNCT_ROLE, "the surface still has an xdg_surface"
        )
    if xdg is not None:
        windows.lose_surface(core, xdg)
    if surface.icon is not None:
        surface.icon.destroy()
        surface.icon = None
    sub = surface.sub
    if sub is not None:
        if sub.parent is not None and sub in sub.parent.children:
            sub.parent.children.remove(sub)
        sub.parent = sub.surface = None
        surface.sub = None
    for child in surface.children:
        child.parent = None
    surface.children.clear()
    for state in (surface.pending, surface.cached):
        forget_state(core, state)
    surface.pending, surface.cached = SurfaceState(), None
    if surface.viewport_sid:
        core.up.data += emit.viewport_destroy(surface.viewport_sid)
    if surface.viewport is not None:
        surface.viewport.surface = None
    budget.count_pixels(core, surface.content.buffer, None)
    held_buffers.left(core, surface.attached)
    surface.attached = None
    core.lose_focus(surface)
    core.usage.give("surfaces", 1)
    core.destroy(surface)


def forget_state(core: ClientState, state: SurfaceState | None) -> None:
    """Release buffers and callbacks of a state that will never be applied."""
    if state is None:
        return
    held_buffers.unhold(core, state.buffer)
    for callback in state.frames or ():
        core.drop_local(callback)
    for _, callback in state.feedbacks or ():
        core.drop_local(callback)


# -- which outputs show a surface ---------------------------------------------------


def enter(core: ClientState, surface: Surface, output: ProtocolObject | None) -> None:
    note_output(core, surface, output, bit=1, inside=True)


def leave(core: ClientState, surface: Surface, output: ProtocolObject | None) -> None:
    note_output(core, surface, output, bit=1, inside=False)


def note_output(
    core: ClientState,
    surface: Surface,
    output: ProtocolObject | None,
    *,
    bit: int,
    inside: bool,
) -> None:
    """Record that a surface (bit 1) or its frame (bit 2) entered or left an output.

    The client learns of the union, once.
    """
    if output is None or not output.cid or surface.dead:
        return
    before = surface.outputs.get(output.sid, 0)
    after = before | bit if inside else before & ~bit
    surface.outputs[output.sid] = after
    if not after:
        del surface.outputs[output.sid]
    if bool(before) != bool(after):
        write = emit.surface_enter if inside else emit.surface_leave
        core.down.data += write(surface.cid, output.cid)


def own_enter(
    core: ClientState, own: OwnSurface, output: ProtocolObject | None
) -> None:
    """An event of a frame's root."""
    if own.alias is not None:
        note_output(core, own.alias, output, bit=2, inside=True)


def own_leave(
    core: ClientState, own: OwnSurface, output: ProtocolObject | None
) -> None:
    """An event of a frame's root."""
    if own.alias is not None:
        note_output(core, own.alias, output, bit=2, inside=False)


# -- regions ---------------------------------------------------------------------------


def region_add(
    core: ClientState, region: Region, x: int, y: int, w: int, h: int
) -> None:
    _region_op(core, region, x, y, w, h, add=True)


def region_subtract(
    core: ClientState, region: Region, x: int, y: int, w: int, h: int
) -> None:
    _region_op(core, region, x, y, w, h, add=False)


def _region_op(
    core: ClientState, region: Region, x: int, y: int, w: int, h: int, *, add: bool
) -> None:
    """Add to or subtract from a region's bounds."""
    left, top = clamp(x, -_FAR, _FAR), clamp(y, -_FAR, _FAR)
    right, bottom = clamp(x + w, -_FAR, _FAR), clamp(y + h, -_FAR, _FAR)
    if right <= left or bottom <= top:
        return
    if add:
        before = region.around or (left, top, right, bottom)
        region.around = (
            *(min(left, before[0]), min(top, before[1])),
            *(max(right, before[2]), max(bottom, before[3])),
        )
    # A request that names a region may not cost what all earlier ones added to it.
    # guard: surface regions bounded
    if region.joined or len(region.ops) >= limits.WAYLAND_SURFACE_RECTS:
        _forget_ops(core, region)
        region.joined = True
    else:
        # guard: kept bytes bounded
        core.usage.take("kept_bytes", _OP_BYTES)
        region.ops.append((add, left, top, right - left, bottom - top))


def _forget_ops(core: ClientState, region: Region) -> None:
    core.usage.give("kept_bytes", _OP_BYTES * len(region.ops))
    region.ops.clear()


def region_destroy(core: ClientState, region: Region) -> None:
    _forget_ops(core, region)
    core.drop_local(region)


# -- viewports -----------------------------------------------------------------------------


def viewporter_destroy(core: ClientState, viewporter: ProtocolObject) -> None:
    core.destroy(viewporter)


def get_viewport(
    core: ClientState, viewporter: ProtocolObject, new_id: int, surface: Surface
) -> None:
    """Create a surface's viewport.  Raises ProtocolFault for a second one."""
    if surface.viewport is not None:
        raise ProtocolFault(
            viewporter.cid, VIEWPORTER_EXISTS, "the surface already has a viewport"
        )
    viewport = core.make(new_id, "wp_viewport", viewporter.version, server=False)
    assert isinstance(viewport, Viewport)
    viewport.surface = surface
    surface.viewport = viewport


def _viewed(viewport: Viewport) -> Surface:
    if viewport.surface is None:
        raise ProtocolFault(
            viewport.cid, VIEWPORT_NO_SURFACE, "the viewport's surface was destroyed"
        )
    return viewport.surface


def set_source(
    _core: ClientState, viewport: Viewport, x: int, y: int, w: int, h: int
) -> None:
    """Hold a viewport's source until the next commit.  Raises ProtocolFault."""
    surface = _viewed(viewport)
    if (x, y, w, h) == (-256, -256, -256, -256):
        surface.pending.source = None
    elif x < 0 or y < 0 or w <= 0 or h <= 0:
        raise ProtocolFault(viewport.cid, VIEWPORT_BAD_VALUE, "invalid viewport source")
    else:
        surface.pending.source = SourceRect(x, y, w, h)


def set_destination(_core: ClientState, viewport: Viewport, w: int, h: int) -> None:
    """Hold a viewport's size until the next commit.  Raises ProtocolFault."""
    surface = _viewed(viewport)
    if (w, h) == (-1, -1):
        surface.pending.size = None
    elif 0 < w <= _FAR and 0 < h <= _FAR:
        surface.pending.size = (w, h)
    else:
        raise ProtocolFault(viewport.cid, VIEWPORT_BAD_VALUE, f"invalid size {w}x{h}")


def viewport_destroy(core: ClientState, viewport: Viewport) -> None:
    surface = viewport.surface
    if surface is not None:
        surface.viewport = None
        surface.pending.source = surface.pending.size = None
    core.drop_local(viewport)


# -- presentation feedback --------------------------------------------------------------------


def feedback(
    core: ClientState, presentation: ProtocolObject, surface: Surface, new_id: int
) -> None:
    """Hold a presentation feedback until the next commit, within the limit."""
    held = surface.pending.feedbacks
    if held is None:
        held = surface.pending.feedbacks = []
    # guard: feedbacks bounded
    if len(held) >= limits.WAYLAND_CALLBACKS:
        raise core.too_much("too many presentation feedbacks in one commit")
    made = core.make(
        new_id, "wp_presentation_feedback", presentation.version, server=False
    )
    held.append((presentation, made))


def sync_output(
    core: ClientState, callback: ProtocolObject, output: ProtocolObject | None
) -> None:
    """Names an output; ours are not the client's."""
    if output is not None and output.cid:
        core.down.data += _sync_output(callback.cid, output.cid)


_sync_output = emit.event("wp_presentation_feedback", "sync_output")


def clock_id(core: ClientState, presentation: ProtocolObject, clock: int) -> None:
    """The clock of all times; kept for a client on another machine."""
    core.clock = clock
    core.down.data += _clock_id(presentation.cid, clock)


def presented(
    core: ClientState,
    callback: ProtocolObject,
    high: int,
    low: int,
    nanoseconds: int,
    *rest: int,
) -> None:
    """Forward when a frame was shown, in the clock of the client's machine.

    waypipe's two ends have different clocks, so on its wire these times are
    those of CLOCK_REALTIME.
    """
    if core.clock_shift is not None:
        time = (high << 32 | low) * _SECOND + nanoseconds + core.clock_shift(core.clock)
        seconds, nanoseconds = divmod(max(0, time), _SECOND)
        high, low = seconds >> 32 & 0xFFFFFFFF, seconds & 0xFFFFFFFF
    core.down.data += _presented(callback.cid, high, low, nanoseconds, *rest)


_SECOND = 1_000_000_000
_clock_id = emit.event("wp_presentation", "clock_id")
_presented = emit.event("wp_presentation_feedback", "presented")


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("wl_compositor", "create_surface"): create_surface,
    ("wl_compositor", "create_region"): create_region,
    ("wl_region", "destroy"): region_destroy,
    ("wl_region", "add"): region_add,
    ("wl_region", "subtract"): region_subtract,
    ("wl_surface", "destroy"): destroy_surface,
    ("wl_surface", "attach"): attach,
    ("wl_surface", "damage"): damage,
    ("wl_surface", "frame"): frame,
    ("wl_surface", "set_opaque_region"): set_opaque_region,
    ("wl_surface", "set_input_region"): set_input_region,
    ("wl_surface", "commit"): Raw(commit_surface),
    ("wl_surface", "set_buffer_transform"): set_buffer_transform,
    ("wl_surface", "set_buffer_scale"): set_buffer_scale,
    ("wl_surface", "damage_buffer"): damage_buffer,
    ("wl_surface", "offset"): offset,
    ("wp_presentation", "destroy"): FORWARD,
    ("wp_presentation", "feedback"): feedback,
    ("wp_viewport", "destroy"): viewport_destroy,
    ("wp_viewport", "set_source"): set_source,
    ("wp_viewport", "set_destination"): set_destination,
    ("wp_viewporter", "destroy"): viewporter_destroy,
    ("wp_viewporter", "get_viewport"): get_viewport,
}
EVENTS: Rules = {
    ("wl_surface", "enter"): enter,
    ("wl_surface", "leave"): leave,
    ("wl_surface", "preferred_buffer_scale"): FORWARD,
    ("wl_surface", "preferred_buffer_transform"): FORWARD,
    ("wp_presentation", "clock_id"): clock_id,
    ("wp_presentation_feedback", "sync_output"): sync_output,
    ("wp_presentation_feedback", "presented"): presented,
    ("wp_presentation_feedback", "discarded"): FORWARD,
}
CLASSES: Classes = {
    "wl_region": Region,
    "wl_surface": Surface,
    "wp_viewport": Viewport,
}
