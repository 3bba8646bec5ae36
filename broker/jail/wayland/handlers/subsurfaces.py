"""wl_subcompositor and wl_subsurface: trees of surfaces.

Requests here only change what the parent's next commit will apply (``commit.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.handlers.surfaces import forget_state
from broker.jail.wayland.model import Subsurface, Surface, SurfaceRole
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import cropping, promote
from broker.jail.wayland.scene.geometry import clamp

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

# Error codes, as the protocols number them.
SUBCOMPOSITOR_BAD_SURFACE = 0
SUBCOMPOSITOR_BAD_PARENT = 1
SUBSURFACE_BAD_SURFACE = 0

_FAR = limits.WAYLAND_COORDINATE


def subcompositor_destroy(core: ClientState, subcompositor: ProtocolObject) -> None:
    core.destroy(subcompositor)


# A surface with a new parent shows one pixel. A subsurface belongs to its parent from
# the parent's next commit on, says the protocol. KWin 5.27 shows it at once, at its
# parent's corner and as large as it was cropped last: a window could cover another
# one's frame with it for as long as it does not commit. So we make all of it one pixel
# before it gets its parent, and lay it out with the parent's commit. Refusing such
# surfaces would have been simpler, but the protocol allows them.
def get_subsurface(
    core: ClientState,
    subcompositor: ProtocolObject,
    new_id: int,
    surface: Surface,
    parent: Surface,
) -> None:
    """Make a surface a subsurface.  Raises ProtocolFault."""
    taken = (
        surface.role not in {None, SurfaceRole.SUBSURFACE} or surface.sub is not None
    )
    # guard: role conflicts
    if taken or surface.xdg is not None:
        raise ProtocolFault(
            subcompositor.cid, SUBCOMPOSITOR_BAD_SURFACE, "the surface has another role"
        )
    # guard: subsurface loops
    if parent.root() is surface:
        raise ProtocolFault(
            subcompositor.cid, SUBCOMPOSITOR_BAD_PARENT, "the subsurfaces form a loop"
        )
    # guard: subsurface depth
    if parent.depth + _height(surface) >= limits.WAYLAND_SUBSURFACE_DEPTH:
        raise core.too_much("subsurfaces are nested too deeply")
    # guard: subsurfaces bounded
    if _count(parent.root()) + _count(surface) > limits.WAYLAND_SUBSURFACES:
        raise core.too_much("too many subsurfaces in one window")
    # guard: a pixel in a new parent
    cropping.withdraw(core, surface)  # before the id that is sent after it
    sub = core.make(new_id, "wl_subsurface", subcompositor.version)
    assert isinstance(sub, Subsurface)
    surface.role = SurfaceRole.SUBSURFACE
    surface.sub, sub.surface, sub.parent = sub, surface, parent
    parent.children.append(sub)
    parent.root().relayout = True
    core.up.data += emit.get_subsurface(
        subcompositor.sid, sub.sid, surface.sid, parent.sid
    )


def _height(surface: Surface) -> int:
    return 1 + max(
        (_height(s.surface) for s in surface.children if s.surface), default=0
    )


def _count(surface: Surface) -> int:
    return 1 + sum(_count(s.surface) for s in surface.children if s.surface)


def subsurface_destroy(core: ClientState, sub: Subsurface) -> None:
    """Destroy a subsurface and what is promoted below it."""
    surface, parent = sub.surface, sub.parent
    if surface is not None:
        promote.end_promoted_below(core, surface)
        promote.renew_children(core, surface)
    if parent is not None and sub in parent.children:
        parent.children.remove(sub)
    if surface is not None:
        surface.sub = None
        forget_state(core, surface.cached)
        surface.cached = None
    sub.surface = sub.parent = None
    core.destroy(sub)


def set_position(core: ClientState, sub: Subsurface, x: int, y: int) -> None:
    _hold_child(core, sub, "at", (clamp(x, -_FAR, _FAR), clamp(y, -_FAR, _FAR)))


def place_above(core: ClientState, sub: Subsurface, sibling: Surface) -> None:
    _place(core, sub, "above", sibling)


def place_below(core: ClientState, sub: Subsurface, sibling: Surface) -> None:
    _place(core, sub, "below", sibling)


def _place(core: ClientState, sub: Subsurface, kind: str, sibling: Surface) -> None:
    """Hold a child's new place in the order until the parent's commit."""
    parent = sub.parent
    if parent is None:
        return
    brother = sibling.sub is not None and sibling.sub.parent is parent
    # guard: siblings only
    if sibling is sub.surface or not (brother or sibling is parent):
        raise ProtocolFault(
            sub.cid, SUBSURFACE_BAD_SURFACE, "neither a sibling nor the parent"
        )
    _hold_child(core, sub, kind, sibling)


def _hold_child(
    core: ClientState, sub: Subsurface, kind: str, argument: object
) -> None:
    """Hold a child's change until the parent's commit."""
    if sub.parent is None:
        return
    pending = sub.parent.pending
    if pending.children is None:
        pending.children = []
    # guard: moves of children bounded
    if len(pending.children) >= limits.WAYLAND_CHILD_OPS:
        raise core.too_much("too many moves of subsurfaces in one commit")
    # guard: moves of subsurfaces cost more
    core.messages += 1
    pending.children.append((kind, sub, argument))


def set_sync(_core: ClientState, sub: Subsurface) -> None:
    sub.sync = True


def set_desync(_core: ClientState, sub: Subsurface) -> None:
    sub.sync = False


REQUESTS: Rules = {
    ("wl_subcompositor", "destroy"): subcompositor_destroy,
    ("wl_subcompositor", "get_subsurface"): get_subsurface,
    ("wl_subsurface", "destroy"): subsurface_destroy,
    ("wl_subsurface", "set_position"): set_position,
    ("wl_subsurface", "place_above"): place_above,
    ("wl_subsurface", "place_below"): place_below,
    ("wl_subsurface", "set_sync"): set_sync,
    ("wl_subsurface", "set_desync"): set_desync,
}
EVENTS: Rules = {}
CLASSES: Classes = {"wl_subsurface": Subsurface}
