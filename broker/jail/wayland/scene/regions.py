"""State with coordinates on a surface, which its crop shifts.

Input and opaque regions, and the region and hint of a locked or confined pointer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.model import Constraint, RegionOps, Surface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.scene.geometry import clamp

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_FAR = limits.WAYLAND_COORDINATE
LOCKED, CONFINED = "zwp_locked_pointer_v1", "zwp_confined_pointer_v1"

_hint = emit.request(LOCKED, "set_cursor_position_hint")
_SET_REGION = {
    LOCKED: emit.request(LOCKED, "set_region"),
    CONFINED: emit.request(CONFINED, "set_region"),
}


# Regions of a surface end at 64 rectangles. A region is copied into a surface three
# times and sent again when its crop moves. Beyond 64 rectangles an input region becomes
# the one around them: what a surface refuses is swallowed by its frame either way.
def send_region(
    core: ClientState, surface: Surface, write: emit.Packer, ops: RegionOps | None
) -> None:
    """Set a region of the surface's."""
    with region_of(core, surface, ops) as region:
        core.up.data += write(surface.sid, region)


@contextmanager
def region_of(
    core: ClientState, surface: Surface, ops: RegionOps | None
) -> Iterator[int]:
    """Yield a region of these operations, shifted by the crop, for one request.

    0 for none.
    """
    out = core.up.data
    if ops is None:
        yield 0
        return
    region = core.own("wl_region").sid
    out += emit.create_region(core.compositor, region)
    for add, x, y, w, h in ops:
        op = emit.region_add if add else emit.region_subtract
        out += op(
            region,
            clamp(x - surface.cx, -_FAR, _FAR),
            clamp(y - surface.cy, -_FAR, _FAR),
            w,
            h,
        )
    yield region
    out += emit.region_destroy(region)


def apply_constraint(
    core: ClientState,
    surface: Surface,
    constraint: ProtocolObject,
    kind: str,
    value: object,
) -> None:
    """Send a held change, with the surface's commit."""
    if not isinstance(constraint, Constraint) or constraint.dead:
        return
    if kind == "hint" and isinstance(value, tuple):
        crop = surface.crop
        if crop is not None:
            # wl_fixed_t, and the last shown point is inside.
            # guard: hints stay inside
            x = clamp(value[0] - surface.cx * 256, 0, crop.w * 256 - 1)
            y = clamp(value[1] - surface.cy * 256, 0, crop.h * 256 - 1)
            core.up.data += _hint(constraint.sid, x, y)
        return
    constraint.region = value if isinstance(value, tuple) else None
    send_constraint(core, surface, constraint)


def send_constraint(
    core: ClientState, surface: Surface, constraint: Constraint
) -> None:
    """Send the region again, for the present crop."""
    if not constraint.dead:
        with region_of(core, surface, constraint.region) as sid:
            core.up.data += _SET_REGION[constraint.interface](constraint.sid, sid)
