"""The pointer's picture: the application's on its content, ours on a frame.

No client draws the pointer on a frame, so the compositor
keeps showing what the application set last: up to 64 x 64 pixels of its
choice, over the border.  With each enter we set a shape of our own: by name
where the compositor has wp_cursor_shape_v1, else an arrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.input_model import ClientTool, HostPointer, Pointed, Pointer
from broker.jail.wayland.model import Surface, SurfaceRole, Toplevel, free_cap
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene.geometry import clamp

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

POINTER_ROLE = 0
MANAGER = "wp_cursor_shape_manager_v1"
_CORNER = 16
"""Logical pixels from a corner of the frame that resize in both directions."""

# wp_cursor_shape_device_v1.shape
_DEFAULT = 1
_OF_EDGE = {1: 19, 2: 22, 4: 25, 5: 21, 6: 24, 8: 18, 9: 20, 10: 23}

# '#' is black, '.' white, ' ' nothing; the tip is the hot spot.
_ARROW = (
    "#           ", "##          ", "#.#         ", "#..#        ", "#...#       ",
    "#....#      ", "#.....#     ", "#......#    ", "#.......#   ", "#........#  ",
    "#.........# ", "#......#####", "#...#..#    ", "#..# #..#   ", "#.#  #..#   ",
    "##    #..#  ", "#     #..#  ", "       ##   ",
)  # fmt: skip
_PIXELS = {"#": b"\0\0\0\xff", ".": b"\xff\xff\xff\xff", " ": b"\0\0\0\0"}
_PICTURE = b"".join(_PIXELS[c] for row in _ARROW for c in row)
_ARGB = 0

_get_pointer = emit.request(MANAGER, "get_pointer")
_get_tool = emit.request(MANAGER, "get_tablet_tool_v2")
_set_tool_cursor = emit.request("zwp_tablet_tool_v2", "set_cursor")
_set_shape = emit.request("wp_cursor_shape_device_v1", "set_shape")
_end_shape = emit.request("wp_cursor_shape_device_v1", "destroy")
_set_cursor = emit.request("wl_pointer", "set_cursor")


def grip(
    x: int, y: int, outer: tuple[int, int], edges: tuple[int, int, int, int]
) -> int | None:
    """Return which xdg_toplevel.resize_edge a point of the frame grips.

    0 moves the window (the top strip), None is inside the content.
    """
    left, top, right, bottom = edges
    width, height = outer
    if left <= x < width - right and top <= y < height - bottom:
        return None
    across = 4 if x < _CORNER else 8 if x >= width - _CORNER else 0
    along = 1 if y < _CORNER else 2 if y >= height - _CORNER else 0
    if across and along:
        return across | along
    if y < top:
        return 0
    return 2 if y >= height - bottom else 4 if x < left else 8


def gripped(pointer: HostPointer) -> tuple[Toplevel, int] | None:
    """Return the window whose frame the pointer is on, and the edge it grips."""
    surface = pointer.own.alias if pointer.own is not None else None
    xdg = surface.xdg if surface is not None else None
    if xdg is None or xdg.frame is None or xdg.frame.outer is None:
        return None
    if not isinstance(xdg.role, Toplevel):
        return None
    spot = pointer.x // 256, pointer.y // 256
    edge = grip(*spot, xdg.frame.outer, xdg.frame.edges)
    return None if edge is None else (xdg.role, edge)


class ArrowCursor:
    """Our cursor surface with an arrow on it, one for a connection."""

    def __init__(self, core: ClientState) -> None:
        width, height = len(_ARROW[0]), len(_ARROW)
        size = len(_PICTURE)
        paint = core.machine.paint()
        paint.grow(size)
        paint.write(0, _PICTURE)
        pool = core.own("wl_shm_pool").sid
        core.up.add(emit.create_pool(core.shm, pool, size), [paint.export()])
        paint.close()
        buffer = core.own("wl_buffer").sid
        out = core.up.data
        out += emit.create_buffer(pool, buffer, 0, width, height, width * 4, _ARGB)
        out += emit.pool_destroy(pool)
        self.surface = core.own_surface(alias=None).sid
        self._show = emit.attach(self.surface, buffer, 0, 0)
        self._show += emit.damage_buffer(self.surface, 0, 0, width, height)
        self._show += emit.commit(self.surface)

    def show(self, core: ClientState, pointer: HostPointer, serial: int) -> None:
        """Make a surface the pointer's image."""
        core.up.data += _set_cursor(pointer.sid, serial, self.surface, 0, 0)
        core.up.data += self._show


def enter(core: ClientState, pointer: HostPointer, serial: int) -> None:
    """Set the cursor of a pointer that came onto a frame."""
    pointer.entered, pointer.shape = serial, 0
    if not core.cursor_shapes:
        if core.arrow is None:
            core.arrow = ArrowCursor(core)
        core.arrow.show(core, pointer, serial)
        return
    if not pointer.shape_sid:
        pointer.shape_sid = core.own("wp_cursor_shape_device_v1").sid
        core.up.data += _get_pointer(core.cursor_shapes, pointer.shape_sid, pointer.sid)
    follow(core, pointer)


def follow(core: ClientState, pointer: HostPointer) -> None:
    """Set the cursor's shape on a frame to what a press there would do."""
    if not pointer.shape_sid:
        return
    grips = gripped(pointer)
    shape = _OF_EDGE.get(grips[1], _DEFAULT) if grips is not None else _DEFAULT
    if shape != pointer.shape:
        pointer.shape = shape
        core.up.data += _set_shape(pointer.shape_sid, pointer.entered, shape)


def forget(core: ClientState, pointer: HostPointer) -> None:
    """The seat has a pointer no more."""
    if pointer.shape_sid:
        core.up.data += _end_shape(pointer.shape_sid)
        pointer.shape_sid = 0


# -- what the application asks for --------------------------------------------------


class ShapeDevice(ProtocolObject):
    """A wp_cursor_shape_device_v1 of the client's."""

    __slots__ = ("pointer",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.pointer: Pointed | None = None


def _its_own(pointer: Pointed | None, serial: int) -> bool:
    """Return whether the client may choose the pointer's picture at this moment.

    Only while the pointer is over its content, and with the serial of the
    latest enter (wl_pointer.set_cursor): some compositors look at neither,
    and a late word would put its picture onto the frame.
    """
    # guard: cursors with the latest enter
    # guard: cursors only on the content
    return (
        pointer is not None
        and not pointer.dead
        and pointer.focus is not None
        and serial == pointer.entered
    )


# The pointer's picture over a frame is ours. sway 1.7 takes a `set_cursor` with any
# serial from the client under the pointer, and our frames and the application are one
# client to it. So an application's choice is passed on only while the pointer is over
# its content, with the serial of the latest enter, as the protocol says it must be.
def set_cursor(
    core: ClientState,
    pointer: Pointer,
    serial: int,
    surface: Surface | None,
    x: int,
    y: int,
) -> None:
    """Set the cursor's image, if the pointer is over the client."""
    x, y = _as_cursor(pointer, surface, x, y)
    if _its_own(pointer, serial):
        sid = surface.sid if surface is not None else 0
        core.up.data += _set_cursor(pointer.sid, serial, sid, x, y)


def _as_cursor(
    pointer: Pointed, surface: Surface | None, x: int, y: int
) -> tuple[int, int]:
    """Give a surface the cursor's role; return the hot spot, inside of the picture."""
    if surface is None:
        return x, y
    if surface.role not in {None, SurfaceRole.CURSOR}:
        raise ProtocolFault(
            pointer.cid, POINTER_ROLE, "the cursor's surface has another role"
        )
    surface.role = SurfaceRole.CURSOR
    side = free_cap(SurfaceRole.CURSOR)
    return clamp(x, 0, side - 1), clamp(y, 0, side - 1)


def set_tool_cursor(
    core: ClientState,
    tool: ClientTool,
    serial: int,
    surface: Surface | None,
    x: int,
    y: int,
) -> None:
    """Set a pen's cursor (zwp_tablet_tool_v2.set_cursor) on the program's content."""
    x, y = _as_cursor(tool, surface, x, y)
    if _its_own(tool, serial) and tool.host is not None:
        sid = surface.sid if surface is not None else 0
        core.up.data += _set_tool_cursor(tool.host.sid, serial, sid, x, y)


def get_shape_device(
    core: ClientState, manager: ProtocolObject, new_id: int, pointer: Pointer
) -> None:
    """Create a cursor shape device of a pointer."""
    device = _shape_device(core, manager, new_id, pointer)
    if device.sid:
        core.up.data += _get_pointer(manager.sid, device.sid, pointer.sid)


def _shape_device(
    core: ClientState, manager: ProtocolObject, new_id: int, pointed: Pointed
) -> ShapeDevice:
    """Create a shape device; the compositor has none for what is inert."""
    kind = "wp_cursor_shape_device_v1"
    # guard: no shapes of an inert pointer
    server = not pointed.inert
    device = core.make(new_id, kind, manager.version, server=server)
    assert isinstance(device, ShapeDevice)
    device.pointer = pointed
    return device


def set_shape(core: ClientState, device: ShapeDevice, serial: int, shape: int) -> None:
    if device.sid and _its_own(device.pointer, serial):
        core.up.data += _set_shape(device.sid, serial, shape)


def tablet_shape(
    core: ClientState, manager: ProtocolObject, new_id: int, tool: ClientTool
) -> None:
    """Create a cursor shape device of a tablet tool."""
    device = _shape_device(core, manager, new_id, tool)
    if device.sid and tool.host is not None:
        core.up.data += _get_tool(manager.sid, device.sid, tool.host.sid)


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("wl_pointer", "set_cursor"): set_cursor,
    ("wp_cursor_shape_device_v1", "destroy"): FORWARD,
    ("wp_cursor_shape_device_v1", "set_shape"): set_shape,
    ("wp_cursor_shape_manager_v1", "destroy"): FORWARD,
    ("wp_cursor_shape_manager_v1", "get_pointer"): get_shape_device,
    ("wp_cursor_shape_manager_v1", "get_tablet_tool_v2"): tablet_shape,
}
EVENTS: Rules = {}
CLASSES: Classes = {
    "wp_cursor_shape_device_v1": ShapeDevice,
}
