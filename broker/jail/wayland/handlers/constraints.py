"""Relative motion, pointer constraints and shortcut inhibitors: what games and viewers ask for.

The last two are options of a record.  A lock or confinement belongs to a client's own
surface, so its region and hint move with that surface's crop, and its state
waits for the surface's commit like all other.  A hint puts the pointer
somewhere when the lock ends: some compositors do not check where, so it stays inside
the shown part.  An inhibitor belongs to the window, whose keyboard focus is its
frame's.

Compositors choose the constraint that becomes active in two ways: by the surface under
the pointer, which is the client's, or by the window or the surface that has the
keyboard, which is the frame's root (KWin 5.27, sway 1.7).  So a persistent lock is set at both, and the
client learns of whichever becomes active.  A confinement is not: with a pointer over
another surface than the constrained one, sway holds the pointer still.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.handlers.attention import window_sid
from broker.jail.wayland.input_model import Pointer
from broker.jail.wayland.model import Constraint, Region, RegionOps, Surface
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene.regions import CONFINED, LOCKED, region_of

if TYPE_CHECKING:
    from broker.jail.wayland.scene.frame import Frame
    from broker.jail.wayland.state import ClientState

MANAGER = "zwp_pointer_constraints_v1"
INHIBIT_MANAGER = "zwp_keyboard_shortcuts_inhibit_manager_v1"
INHIBITOR = "zwp_keyboard_shortcuts_inhibitor_v1"
_ALREADY_CONSTRAINED = 1
_ALREADY_INHIBITED = 0
_ONESHOT, _PERSISTENT = 1, 2


class Inhibitor(ProtocolObject):
    """A shortcuts inhibitor, for the window of ``surface``."""

    __slots__ = ("surface",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.surface: Surface | None = None


class FrameLock(ProtocolObject):
    """Our lock at a frame's root, beside the lock ``of`` a client's surface in it."""

    __slots__ = ("frame", "of")

    def __init__(self, of: Constraint, frame: Frame) -> None:
        super().__init__(LOCKED, 1)
        self.of = of
        self.frame = frame


class RelativePointer(ProtocolObject):
    """A relative pointer, of our wl_pointer ``of`` or of the client's."""

    __slots__ = ("of",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.of: ProtocolObject | None = None


_lock = emit.request(MANAGER, "lock_pointer")
_confine = emit.request(MANAGER, "confine_pointer")
_get_pointer = emit.request("wl_seat", "get_pointer")
_get_relative = emit.request("zwp_relative_pointer_manager_v1", "get_relative_pointer")


# A seat may lose its pointer while a request that names the wl_pointer is on its way, and
# the filter cannot know.  mutter 43 then follows a null address, with the user's programs;
# a wl_pointer that it makes after the loss it treats like any other.  So these requests
# name a pointer that was requested just before, in the same write.
_RELEASE = 3
"""The version of wl_seat since which a wl_pointer can be released."""


def _new_pointer(core: ClientState, pointer: Pointer) -> ProtocolObject | None:
    """Request a wl_pointer beside the client's; None where it could not be released."""
    seat = core.hands.of(pointer.seat) if pointer.seat is not None else None
    if seat is None or seat.version < _RELEASE:
        return None
    made = core.own("wl_pointer")
    core.up.data += _get_pointer(seat.sid, made.sid)
    return made


@contextmanager
def _named(core: ClientState, pointer: Pointer) -> Iterator[int]:
    """Yield the compositor's id of a wl_pointer for one request, which outlives it."""
    # guard: a constraint names a wl_pointer that is new
    made = _new_pointer(core, pointer)
    yield pointer.sid if made is None else made.sid
    if made is not None:
        core.end_own(made)


# -- relative motion -----------------------------------------------------------------


def get_relative_pointer(
    core: ClientState, manager: ProtocolObject, new_id: int, pointer: Pointer
) -> None:
    """Create a relative pointer.  In wlroots 0.15 it ends with the wl_pointer, which stays."""
    alive = bool(pointer.sid) and not pointer.inert
    made = core.make(new_id, "zwp_relative_pointer_v1", manager.version, server=False)
    assert isinstance(made, RelativePointer)
    made.inert = not alive
    # guard: no relative pointer of an inert pointer
    if not alive:
        return
    # guard: a relative pointer names a wl_pointer that is new
    made.of = _new_pointer(core, pointer)
    named = pointer if made.of is None else made.of
    # Only now: ids have no gaps.
    core.up.data += _get_relative(manager.sid, core.give_sid(made), named.sid)


def destroy_relative(core: ClientState, relative: RelativePointer) -> None:
    core.destroy(relative)
    if relative.of is not None:
        core.end_own(relative.of)


# -- pointer constraints -------------------------------------------------------------


def lock_pointer(
    core: ClientState,
    manager: ProtocolObject,
    new_id: int,
    surface: Surface,
    pointer: Pointer,
    region: Region | None,
    lifetime: int,
) -> None:
    """Create a lock of the pointer on a surface."""
    _constrain(core, manager, (new_id, LOCKED), surface, pointer, (region, lifetime))


def confine_pointer(
    core: ClientState,
    manager: ProtocolObject,
    new_id: int,
    surface: Surface,
    pointer: Pointer,
    region: Region | None,
    lifetime: int,
) -> None:
    """Create a confinement of the pointer to a surface."""
    _constrain(core, manager, (new_id, CONFINED), surface, pointer, (region, lifetime))


def _constrain(
    core: ClientState,
    manager: ProtocolObject,
    new: tuple[int, str],
    surface: Surface,
    pointer: Pointer,
    where: tuple[Region | None, int],
) -> None:
    """Create a lock or confinement of a pointer at the compositor."""
    if surface.constraint is not None:
        raise ProtocolFault(
            manager.cid, _ALREADY_CONSTRAINED, "the surface is already constrained"
        )
    region, lifetime = where
    if lifetime not in {_ONESHOT, _PERSISTENT}:
        raise ProtocolFault(manager.cid, _ALREADY_CONSTRAINED, "invalid lifetime")
    made = core.make(*new, manager.version, server=False)
    assert isinstance(made, Constraint)
    # guard: no constraint of an inert pointer
    if pointer.inert:
        return
    made.surface, made.oneshot = surface, lifetime == _ONESHOT
    made.region = _ops(region)
    surface.constraint = made
    write = _lock if made.interface == LOCKED else _confine
    with region_of(core, surface, made.region) as sid, _named(core, pointer) as named:
        # Only now: the region was made before it, and ids have no gaps.
        core.up.data += write(
            manager.sid, core.give_sid(made), surface.sid, named, sid, lifetime
        )
    if made.interface == LOCKED and not made.oneshot:
        _lock_frame(core, manager, made, pointer)


def _lock_frame(
    core: ClientState, manager: ProtocolObject, made: Constraint, pointer: Pointer
) -> None:
    """Lock the pointer at the root of the window's frame, too.

    A second lock at one surface is an error that ends the connection, so the first
    surface of a window that locks the pointer has it.
    """
    xdg = made.surface.root().xdg if made.surface is not None else None
    frame = xdg.frame if xdg is not None else None
    # guard: one lock at a frame
    if frame is None or frame.lock is not None:
        return
    lock = FrameLock(made, frame)
    made.at_frame = frame.lock = lock
    with frame.content_region() as region, _named(core, pointer) as named:
        core.own(LOCKED, lock)
        lock.events = dispatch.own_events(LOCKED, _FRAME_EVENTS)
        core.up.data += _lock(
            manager.sid, lock.sid, frame.root.sid, named, region, _PERSISTENT
        )


def _unlock_frame(core: ClientState, constraint: Constraint) -> None:
    lock, constraint.at_frame = constraint.at_frame, None
    if isinstance(lock, FrameLock):
        lock.frame.lock = None
        core.end_own(lock)


def _ops(region: Region | None) -> RegionOps | None:
    """A region's rectangles; with too many of them the whole surface counts."""
    return None if region is None or region.joined else region.rectangles()


def set_region(
    core: ClientState, constraint: Constraint, region: Region | None
) -> None:
    _hold(core, constraint, "region", _ops(region))


# Pointer locks and shortcut inhibitors are a record's choice, hints are bounded. Both
# belong to games and viewers of other machines. A lock's position hint is moved into
# the shown area: a compositor may warp the pointer to wherever a hint says.
def set_hint(core: ClientState, constraint: Constraint, x: int, y: int) -> None:
    _hold(core, constraint, "hint", (x, y))


def _hold(core: ClientState, constraint: Constraint, kind: str, value: object) -> None:
    """Hold a constraint's change until the surface's next commit."""
    surface = constraint.surface
    if surface is None or surface.dead:
        return
    held = surface.pending.constraints
    if held is None:
        held = surface.pending.constraints = []
    # guard: constraints bounded
    if len(held) >= limits.WAYLAND_SHELL_OPS:
        raise core.too_much("too many changes of a pointer constraint in one commit")
    held.append((constraint, kind, value))


def _let_go(constraint: Constraint) -> None:
    """Its surface may have another one; that one stays, if it has one already."""
    surface = constraint.surface
    # guard: a second constraint is kept
    if surface is not None and surface.constraint is constraint:
        surface.constraint = None


def destroy(core: ClientState, constraint: Constraint) -> None:
    _let_go(constraint)
    constraint.surface = None
    _unlock_frame(core, constraint)
    core.destroy(constraint)


def _begun(core: ClientState, constraint: Constraint) -> None:
    """A lock is active; the client gets the event once."""
    constraint.active += 1
    if constraint.active == 1:
        core.down.data += _BEGUN[constraint.interface](constraint.cid)


def _over(core: ClientState, constraint: Constraint) -> None:
    """Tell a client that its constraint is over; end a oneshot one."""
    constraint.active = max(0, constraint.active - 1)
    if constraint.active:
        return
    if constraint.oneshot:
        _let_go(constraint)
    core.down.data += _OVER[constraint.interface](constraint.cid)


_BEGUN = {
    LOCKED: emit.event(LOCKED, "locked"),
    CONFINED: emit.event(CONFINED, "confined"),
}
_OVER = {
    LOCKED: emit.event(LOCKED, "unlocked"),
    CONFINED: emit.event(CONFINED, "unconfined"),
}
_FRAME_EVENTS: dispatch.Handlers = {
    "locked": lambda core, lock: _begun(core, lock.of),
    "unlocked": lambda core, lock: _over(core, lock.of),
}


# -- shortcuts ------------------------------------------------------------------------


def inhibit(
    core: ClientState,
    manager: ProtocolObject,
    new_id: int,
    surface: Surface,
    seat: ProtocolObject,
) -> None:
    """Forward a shortcut inhibitor for a window; a second one there is inert."""
    if surface.inhibitor is not None:
        raise ProtocolFault(
            manager.cid, _ALREADY_INHIBITED, "the surface already has an inhibitor"
        )
    sid = window_sid(surface)
    # guard: no inhibitor of an inert seat
    server = bool(sid) and not seat.inert and not _taken(surface.root())
    made = core.make(new_id, INHIBITOR, manager.version, server=server)
    assert isinstance(made, Inhibitor)
    made.surface, surface.inhibitor = surface, made
    if made.sid:
        core.up.data += _inhibit(manager.sid, made.sid, sid, seat.sid)


def _taken(root: Surface) -> bool:
    """Return whether a surface of this window has an inhibitor at the compositor."""
    found = root.inhibitor is not None and bool(root.inhibitor.sid)
    return found or any(_taken(s.surface) for s in root.children if s.surface)


_inhibit = emit.request(INHIBIT_MANAGER, "inhibit_shortcuts")


def destroy_inhibitor(core: ClientState, inhibitor: Inhibitor) -> None:
    if inhibitor.surface is not None:
        inhibitor.surface.inhibitor = None
        inhibitor.surface = None
    core.destroy(inhibitor)


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("zwp_confined_pointer_v1", "destroy"): destroy,
    ("zwp_confined_pointer_v1", "set_region"): set_region,
    ("zwp_keyboard_shortcuts_inhibit_manager_v1", "destroy"): FORWARD,
    ("zwp_keyboard_shortcuts_inhibit_manager_v1", "inhibit_shortcuts"): inhibit,
    ("zwp_keyboard_shortcuts_inhibitor_v1", "destroy"): destroy_inhibitor,
    ("zwp_locked_pointer_v1", "destroy"): destroy,
    ("zwp_locked_pointer_v1", "set_cursor_position_hint"): set_hint,
    ("zwp_locked_pointer_v1", "set_region"): set_region,
    ("zwp_pointer_constraints_v1", "destroy"): FORWARD,
    ("zwp_pointer_constraints_v1", "lock_pointer"): lock_pointer,
    ("zwp_pointer_constraints_v1", "confine_pointer"): confine_pointer,
    ("zwp_relative_pointer_manager_v1", "destroy"): FORWARD,
    ("zwp_relative_pointer_manager_v1", "get_relative_pointer"): get_relative_pointer,
    ("zwp_relative_pointer_v1", "destroy"): destroy_relative,
}
EVENTS: Rules = {
    ("zwp_confined_pointer_v1", "confined"): _begun,
    ("zwp_confined_pointer_v1", "unconfined"): _over,
    ("zwp_keyboard_shortcuts_inhibitor_v1", "active"): FORWARD,
    ("zwp_keyboard_shortcuts_inhibitor_v1", "inactive"): FORWARD,
    ("zwp_locked_pointer_v1", "locked"): _begun,
    ("zwp_locked_pointer_v1", "unlocked"): _over,
}
CLASSES: Classes = {
    "zwp_confined_pointer_v1": Constraint,
    "zwp_keyboard_shortcuts_inhibitor_v1": Inhibitor,
    "zwp_locked_pointer_v1": Constraint,
    "zwp_relative_pointer_v1": RelativePointer,
}
