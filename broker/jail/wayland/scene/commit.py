"""Applying surface state: what a commit of the client's sends, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland import budget, parents
from broker.jail.wayland.buffer_model import Buffer
from broker.jail.wayland.model import (
    UNSET,
    Popup,
    Subsurface,
    Surface,
    SurfaceRole,
    SurfaceState,
    Toplevel,
    XdgSurface,
    free_cap,
)
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import (
    buffer_part,
    fences,
    fifo,
    held_buffers,
    layout,
    pictures,
    promote,
    regions,
    shown,
    window_state,
)
from broker.jail.wayland.scene.cropping import commit_if_dirty
from broker.jail.wayland.scene.geometry import SmallBufferError, clamp

if TYPE_CHECKING:
    from broker.jail.wayland.scene.promote import Promoted
    from broker.jail.wayland.state import ClientState

    _Popups = list[tuple[Promoted, bool]]

# Error codes, as the protocols number them.
XDG_NOT_CONSTRUCTED = 1
XDG_UNCONFIGURED_BUFFER = 3
SURFACE_INVALID_SIZE = 2
VIEWPORT_BAD_SIZE = 1
VIEWPORT_OUT_OF_BUFFER = 2

_FAR = limits.WAYLAND_COORDINATE
_CONTENT_TYPE = "wp_content_type_v1"
_set_content_type = emit.request(_CONTENT_TYPE, "set_content_type")
_OLD_SHELL = 2
"""The version of xdg_wm_base that wlroots 0.15, which sway 1.7 has, offers."""


def commit(core: ClientState, surface: Surface) -> None:
    """Handle wl_surface.commit: apply the pending state, or cache it while synced."""
    state = surface.pending
    fences.wait(core, surface, state)
    pictures.take(core, surface, state)
    surface.pending = SurfaceState()
    # guard: sync stays ours
    if surface.synced or _is_held(surface) or _must_wait(core, surface):
        if surface.cached is None:
            surface.cached = state
        else:
            _merge(core, surface.cached, state)
        return
    if surface.cached is not None:
        earlier, surface.cached = surface.cached, None
        _merge(core, earlier, state)
        state = earlier
    xdg = surface.xdg
    before = xdg is not None and xdg.mapped
    if xdg is not None:
        _may_commit(surface, xdg, state)
    apply(core, surface, state)
    if xdg is not None:
        _follow(core, surface, xdg)
    _send_tree(core, surface, explicit=True)
    if xdg is not None and xdg.mapped and not before and isinstance(xdg.role, Toplevel):
        parents.release(core, xdg.role)
    held_buffers.finish(core)


def _must_wait(core: ClientState, surface: Surface) -> bool:
    """Return whether a popup's first commit waits for its window to be shown.

    One whose parent is not mapped is dismissed: KWin 5.27 dies of its first commit.
    """
    xdg = surface.xdg
    popup = xdg.role if xdg is not None else None
    if xdg is None or not isinstance(popup, Popup) or xdg.committed:
        return False
    parent = popup.parent
    if popup.adrift:
        return not popup.sid  # the compositor never had it
    # guard: a popup is committed on what is mapped
    if parent is None or not parent.mapped:
        window_state.cut_loose(core, xdg, popup)
        return True
    if popup.ask is None:
        return False
    if shown.may_take_popups(core, parent):
        popup.ask()
        return False
    if popup.waits is None:
        popup.waits = core.now + limits.WAYLAND_SHOWN_SECONDS
        core.due = min(popup.waits, core.due or popup.waits)
    shown.await_drawn(core, parent)
    return True


def commit_held(core: ClientState, surface: Surface) -> None:
    """Apply what a popup's commits have changed while they waited."""
    pending, surface.pending = surface.pending, SurfaceState()
    commit(core, surface)
    surface.pending = pending


def _is_held(surface: Surface) -> bool:
    """Return whether a commit would wait in the compositor for a parent's.

    A window's surfaces are synchronised children of its frame.  wlroots keeps each of
    their commits until the frame's, and sway 1.7 dies of those that it applies once the
    window's role is gone.
    """
    root = surface.root()
    # guard: what lost its parent is not committed
    if root.sub is not None:
        return True
    xdg = root.xdg
    if xdg is None or xdg.frame is None or not xdg.frame.has_surface:
        return False
    # guard: nothing is committed that waits for a frame
    return not xdg.mapped and (root is not surface or _is_adrift(xdg))


def _is_adrift(xdg: XdgSurface) -> bool:
    return isinstance(xdg.role, Popup) and xdg.role.adrift


def _merge(core: ClientState, earlier: SurfaceState, later: SurfaceState) -> None:
    """Merge a commit into an earlier one that still waits for its parent's.

    A synchronised child may commit forever while its parent never does, so
    what adds up here is bounded like what adds up before one commit.
    """
    held_buffers.replace(core, earlier.absorb(later))
    for held, most in (
        (earlier.children, limits.WAYLAND_CHILD_OPS),
        (earlier.frames, limits.WAYLAND_CALLBACKS),
        (earlier.feedbacks, limits.WAYLAND_CALLBACKS),
        (earlier.constraints, limits.WAYLAND_CALLBACKS),
    ):
        # guard: waiting moves bounded
        if held is not None and len(held) > most:
            raise core.too_much("a subsurface is committed but never shown")


def _may_commit(surface: Surface, xdg: XdgSurface, state: SurfaceState) -> None:
    """Check xdg_surface's rules on commits.  Raises ProtocolFault."""
    if xdg.role is None:
        raise ProtocolFault(
            xdg.cid, XDG_NOT_CONSTRUCTED, "commit before the xdg_surface has a role"
        )
    has = surface.content.buffer if state.buffer is UNSET else state.buffer
    # guard: configure before buffer
    if has is not None and not xdg.acked:
        raise ProtocolFault(
            xdg.cid, XDG_UNCONFIGURED_BUFFER, "buffer before the first configure"
        )


def _follow(core: ClientState, surface: Surface, xdg: XdgSurface) -> None:
    """Map, update or unmap the window after its surface's own commit.

    Queues requests for the compositor.  The worker reports a mapped window to the viewer.
    """
    if isinstance(xdg.role, Popup):
        if xdg.role.adrift:
            return
    elif xdg.role is not None and xdg.role.untold and xdg.committed:
        window_state.rename_late(core, xdg.role)
    if surface.extent is not None:
        if not xdg.mapped:
            xdg.mapped, xdg.unmapped = True, False
            surface.relayout = True
            if isinstance(xdg.role, Toplevel):
                # guard: windows come at a pace
                window_state.pace_mapping(core, xdg.role)
                core.sandbox.note_mapped()
            if isinstance(xdg.role, Toplevel) and xdg.frame is not None:
                # Its answer while it showed nothing may no longer be valid.
                # guard: a frame with the first picture
                window_state.set_edges(core, xdg.role, xdg.frame, xdg.frame.edges)
    elif xdg.mapped:
        # Without its commit the root still shows all: content and window
        # go together, in the commit of 'hide'.
        xdg.mapped = False
        promote.take_back(core, xdg)
        _send_tree(core, surface, explicit=False, hides=True)
        window_state.unmap(core, xdg)
    elif not xdg.committed:
        xdg.committed = True
        core.arriving.add(xdg)
        window_state.introduce(core, xdg)


def apply(core: ClientState, surface: Surface, state: SurfaceState) -> None:
    """Send a state's requests (no commit) and make it the current state."""
    out = core.up.data
    sid = surface.sid
    changed = False
    surface.dirty = True
    rest = not vars(state).keys() <= _COMMON
    if rest:
        _want_shape(surface, state)
    buffer = state.buffer
    if buffer is not UNSET:
        changed = _attach(core, surface, buffer, state)
    if state.damage or state.buffer_damage:
        _damage(core, surface, state)
        surface.applied = state
    if state.frames is not None:
        for callback in state.frames:
            if not callback.dead:
                out += emit.frame(sid, core.give_sid(callback))
    if rest:
        changed |= _apply_rest(core, surface, state)
    if changed:
        _resize(surface)
    if surface.children:
        _apply_children(core, surface)


def _apply_children(core: ClientState, surface: Surface) -> None:
    """Apply the state that children have cached until this commit."""
    for sub in surface.children:
        child = sub.surface
        if child is None:
            continue
        if child.cached is not None:
            cached, child.cached = child.cached, None
            apply(core, child, cached)
        elif child.children and not child.synced:
            _apply_children(core, child)


_COMMON = frozenset({"buffer", "damage", "buffer_damage", "frames"})


def _attach(
    core: ClientState, surface: Surface, buffer: Buffer | None, state: SurfaceState
) -> bool:
    """Send the attach; return whether the surface's size may have changed."""
    content = surface.content
    size = (buffer.width, buffer.height) if buffer is not None else None
    changed = size != content.buffer
    if changed:
        budget.count_pixels(core, content.buffer, size)
        content.buffer = size
    former, surface.attached = surface.attached, buffer
    if buffer is not None:
        held_buffers.enter(buffer)
    held_buffers.left(core, former)
    if buffer is None:
        surface.part = None
        core.up.data += emit.attach(surface.sid, 0, 0, 0)
        return changed
    if state.dx or state.dy:
        _bounded(surface, state.dx, state.dy)
    sid = buffer_part.chosen(core, surface, buffer, surface.part)
    # guard: windows and cursors have no offset
    core.up.data += emit.attach(surface.sid, sid, 0, 0)
    held_buffers.show(core, buffer)
    stale, surface.stale = surface.stale, False
    if surface.shape != (content.scale, content.transform):
        _reshape(core, surface)
        return True
    return changed or stale


def _want_shape(surface: Surface, state: SurfaceState) -> None:
    """Take over scale and transform; they count from the next buffer on.

    wl_surface lets them apply to the present buffer too, but weston judges
    viewports by the size that the buffer had when it was attached, and ends
    the connection over a crop that is right.  Clients change them with a new
    buffer anyway.
    """
    scale, transform = surface.shape
    surface.shape = (
        scale if state.scale is UNSET else state.scale,
        transform if state.transform is UNSET else state.transform,
    )


def _reshape(core: ClientState, surface: Surface) -> None:
    """Send the surface's scale and transform, where they changed."""
    content = surface.content
    scale, transform = surface.shape
    if scale != content.scale:
        content.scale = scale
        core.up.data += emit.set_buffer_scale(surface.sid, scale)
    if transform != content.transform:
        content.transform = transform
        core.up.data += emit.set_buffer_transform(surface.sid, transform)


def _bounded(surface: Surface, dx: int, dy: int) -> None:
    """Move a drag icon by an attach offset, a little; nothing else moves by one.

    The sum of all offsets stays within the icon's cap, so it does not walk away
    from the pointer in small steps.  The compositor drags the frame: the frame moves,
    not its content.  A cursor's offsets are not passed on at all: its place is what
    ``wl_pointer.set_cursor`` says, and a sum kept here would be another than the
    compositor's wherever that takes no notice of a request.
    """
    if surface.icon is None:
        return
    side = free_cap(SurfaceRole.ICON)
    x, y = surface.hot
    now = (clamp(x - dx, -side, side - 1), clamp(y - dy, -side, side - 1))
    # guard: offsets do not add up
    surface.hot = now
    surface.icon.shift(x - now[0], y - now[1])
    surface.relayout = True


def _damage(core: ClientState, surface: Surface, state: SurfaceState) -> None:
    """Send the commit's damage."""
    out = core.up.data
    if surface.cx or surface.cy or surface.part is not None:
        _damage_cropped(core, surface, state)
    else:
        for rect in state.damage or ():
            out += emit.damage(surface.sid, *rect)
    left, top = surface.part[:2] if surface.part is not None else (0, 0)
    for x, y, w, h in state.buffer_damage or ():
        out += emit.damage_buffer(surface.sid, x - left, y - top, w, h)


def _damage_cropped(core: ClientState, surface: Surface, state: SurfaceState) -> None:
    """Send the damage of a surface whose crop does not begin at its corner.

    Sent in the buffer's own pixels, where the crop does not matter: wlroots 0.18
    subtracts the crop's origin from a surface's damage twice, and the drawn part was
    not shown.
    """
    content, out = surface.content, core.up.data
    scaled = not (content.source is None and content.size is None)
    if scaled or content.transform or {"source", "size"} & vars(state).keys():
        if state.damage:
            out += emit.damage_buffer(surface.sid, 0, 0, _FAR, _FAR)
        return
    scale = content.scale
    left, top = surface.part[:2] if surface.part is not None else (0, 0)
    for x, y, w, h in state.damage or ():
        out += emit.damage_buffer(
            surface.sid, x * scale - left, y * scale - top, w * scale, h * scale
        )


def _apply_rest(core: ClientState, surface: Surface, state: SurfaceState) -> bool:
    """Apply all but buffer, damage and callbacks; return if the size may change."""
    changed = _apply_viewport(surface, state)
    if state.input is not UNSET:
        surface.input = state.input
        regions.send_region(core, surface, emit.set_input_region, state.input)
    if state.opaque is not UNSET:
        surface.opaque = state.opaque
        regions.send_region(core, surface, emit.set_opaque_region, state.opaque)
    for base, callback in state.feedbacks or ():
        if callback.dead:
            continue
        # guard: no request to an id that was given back
        if base.dead:
            # Its id may be another object's by now: of a frame's, for one.
            core.down.data += emit.feedback_discarded(callback.cid)
            core.drop_local(callback)
        else:
            core.up.data += emit.feedback(
                base.sid, surface.sid, core.give_sid(callback)
            )
    hint = surface.hints.get(_CONTENT_TYPE)
    if state.content_type is not UNSET and hint is not None:
        core.up.data += _set_content_type(hint.sid, state.content_type)
    for kind, sub, argument in state.children or ():
        _apply_subsurface_change(core, surface, kind, sub, argument)
    for constraint, kind, value in state.constraints or ():
        regions.apply_constraint(core, surface, constraint, kind, value)
    if surface.xdg is not None:
        _apply_shell(core, surface, surface.xdg, state)
    return changed


def _apply_viewport(surface: Surface, state: SurfaceState) -> bool:
    """Apply the client's own viewport; return whether the size may change."""
    content = surface.content
    changed = False
    if state.source is not UNSET and state.source != content.source:
        content.source = state.source
        changed = True
    if state.size is not UNSET and state.size != content.size:
        content.size = state.size
        changed = True
    return changed


def _apply_shell(
    core: ClientState, surface: Surface, xdg: XdgSurface, state: SurfaceState
) -> None:
    """Send held requests of the window, and adjust its frame."""
    if state.shell:
        core.up.data += b"".join(state.shell)
        surface.relayout = True  # they count with the frame's commit
    frame = xdg.frame
    if frame is not None and state.edges is not None and isinstance(xdg.role, Toplevel):
        fills = xdg.role.maximized or xdg.role.is_fullscreen
        frame.answer(state.maximized, fills=fills)
        surface.relayout = True
        window_state.set_edges(core, xdg.role, frame, state.edges)
        window_state.answered(core, xdg, xdg.role)
    if state.granted is not None and isinstance(xdg.role, Popup):
        xdg.role.take(state.granted, xdg.serials)
        surface.relayout = True
    if state.hints and isinstance(xdg.role, Toplevel):
        window_state.size_hints(core, xdg.role)
    if state.barrier or state.wait:
        fifo.constrain(core, xdg, state)
    if state.geometry is not UNSET and state.geometry != xdg.geometry:
        xdg.geometry = state.geometry
        surface.relayout = True


def _apply_subsurface_change(
    core: ClientState, parent: Surface, kind: str, sub: Subsurface, argument: object
) -> None:
    """Apply a held change of a subsurface: place or order."""
    if sub.dead or sub.parent is not parent:
        return
    if isinstance(argument, Surface):
        if not argument.dead and _reorder(parent, sub, argument, kind):
            if sub.surface is not None:
                sub.surface.moved = True
            promote.restack(core, sub)
    elif isinstance(argument, tuple):
        sub.x, sub.y = argument
        parent.root().relayout = True


def _reorder(parent: Surface, sub: Subsurface, other: Surface, kind: str) -> bool:
    """Move a subsurface in its parent's order; False if the other has left it."""
    order = parent.children
    if other is not parent and (other.sub is None or other.sub.parent is not parent):
        return False
    order.remove(sub)
    if other.sub is not None and other is not parent:
        sub.below = other.sub.below
        order.insert(order.index(other.sub) + (kind == "above"), sub)
    else:
        sub.below = kind == "below"
        order.insert(sum(s.below for s in order), sub)
    return True


def _resize(surface: Surface) -> None:
    """Compute the surface's size after a commit.  Raises ProtocolFault."""
    try:
        extent = surface.content.extent()
    except SmallBufferError as error:
        raise ProtocolFault(surface.cid, SURFACE_INVALID_SIZE, str(error)) from error
    except ValueError as error:
        viewport = surface.viewport
        code = (
            VIEWPORT_BAD_SIZE if "fractional" in str(error) else VIEWPORT_OUT_OF_BUFFER
        )
        raise ProtocolFault(
            viewport.cid if viewport else 1, code, str(error)
        ) from error
    surface.extent = extent
    surface.moved = True
    surface.root().relayout = True


# -- commits -------------------------------------------------------------------------


def _send_tree(
    core: ClientState, surface: Surface, *, explicit: bool, hides: bool = False
) -> None:
    """Lay out if needed, then commit from the leaves to the frame's root.

    ``explicit``: the client itself committed the window's surface, which on
    an unmapped window is what asks for a configure; our own commits must not.
    ``hides``: the frame is hidden next, with a commit of its own.
    """
    root = surface.root()
    explicit &= root is surface
    alone = not root.relayout and _may_come_alone(root)
    if root.relayout:
        root.relayout = False
        layout.lay_out(core, root)
    if root.applied is not None or root.moved or root.children:
        budget.charge_drawing(core, root)
    xdg = root.xdg
    sends = xdg is not None and _sends_frame(xdg, explicit=explicit)
    popups: _Popups = []
    # wlroots keeps a commit that no frame's follows until the surface ends.  sway 1.7
    # uses the window then, which may be gone: a program that disconnects ended it.
    # guard: a frame's commit follows each in its tree
    if root.sub is not None or (xdg is not None and not (sends or hides)):
        pass
    elif root.children:
        _commit_dirty(core, root, popups)
    elif root.dirty and not alone:
        root.dirty = False
        core.up.data += emit.commit(root.sid)
    if root.icon is not None:
        root.icon.commit()
    if xdg is not None and sends:
        _send_frame(core, root, xdg, alone=alone)
    # Last: content that has just gone back into the window is cropped with the window.
    for popup, content in popups:
        popup.commit(content=content)
    if core.promotions:
        promote.begin_waiting(core)


def _sends_frame(xdg: XdgSurface, *, explicit: bool) -> bool:
    """Return whether a commit of its frame follows a commit of a window's tree."""
    if xdg.frame is None or _is_adrift(xdg):
        return False
    return xdg.mapped or (explicit and xdg.committed)


def _may_come_alone(root: Surface) -> bool:
    """Return whether only a popup's picture is new, so its frame needs no commit.

    sway 1.7 ends a connection over a commit of a popup that it has just closed, also if
    the commit was on its way then: a menu is drawn again when the pointer leaves its
    row, and the press that follows closes it.  A commit of a subsurface ends nothing.
    """
    xdg = root.xdg
    if xdg is None or xdg.base is None or not isinstance(xdg.role, Popup):
        return False
    old = xdg.base.version <= _OLD_SHELL
    # guard: a menu's picture comes without its frame
    return old and xdg.mapped and root.dirty and not root.children


def _send_frame(
    core: ClientState, root: Surface, xdg: XdgSurface, *, alone: bool
) -> None:
    """Commit the frame, with its window's content alone or with all."""
    assert xdg.frame is not None
    # sway 1.7 looks at all its windows for each: 2.5 us, and 0.05 for a window.
    # guard: a commit costs by the windows
    core.messages += core.sandbox.totals["windows"] // limits.WAYLAND_WINDOWS_A_MESSAGE
    if alone:
        root.dirty = False
        xdg.frame.commit_content()
    else:
        xdg.frame.commit()


def _commit_dirty(core: ClientState, surface: Surface, popups: _Popups) -> bool:
    """Commit the changed surfaces of a tree; return whether its root was one."""
    # A window's commit makes the compositor look at each of its surfaces.
    # guard: a commit costs by its surfaces
    core.pixels += limits.WAYLAND_SURFACE_PIXELS
    for sub in surface.children:
        if sub.surface is None:
            continue
        # guard: a promoted surface waits for its configure event
        if sub.promoted is not None and sub.promoted.granted is None:
            continue
        done = _commit_dirty(core, sub.surface, popups)
        if sub.promoted is not None:
            popups.append((sub.promoted, done))
        elif done:
            surface.dirty = True
    return commit_if_dirty(core, surface)


def relayout(core: ClientState, surface: Surface) -> None:
    """Show a tree whose shape changed without a commit of the client's."""
    root = surface.root()
    root.relayout = True
    _send_tree(core, root, explicit=False)
