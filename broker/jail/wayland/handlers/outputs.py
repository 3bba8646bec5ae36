"""Outputs: what a client may know of screens, and what we know of them.

Make, model, serial number and connector name identify a user's desk; the
client gets constants in their place.  We bind every output ourselves, for the
size that bounds popups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.core import limits
from broker.jail.wayland.input_model import BoundGlobal
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Handlers, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_CURRENT_MODE = 1


class LogicalOutput(ProtocolObject):
    """Our own wl_output: its size in logical pixels."""

    __slots__ = ("height", "logical", "scale", "turned", "width")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.width = 0
        self.height = 0
        self.scale = 1
        self.turned = False
        self.logical: tuple[int, int] | None = None

    def size(self) -> tuple[int, int] | None:
        """Return the screen's width and height.

        None before the compositor sent them.
        """
        if self.logical is not None:
            return self.logical
        if not self.width:
            return None
        w, h = self.width // self.scale, self.height // self.scale
        return (h, w) if self.turned else (w, h)


class LogicalSize(ProtocolObject):
    """Our own zxdg_output_v1, which knows fractional scales."""

    __slots__ = ("screen",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.screen: LogicalOutput | None = None


def _geometry(core: ClientState, screen: LogicalOutput, *values: int | bytes) -> None:
    screen.turned = bool(int(values[-1]) & 1)
    core.rescreened = True


def _mode(
    core: ClientState,
    screen: LogicalOutput,
    flags: int,
    width: int,
    height: int,
    _refresh: int,
) -> None:
    """Note a screen's current size."""
    if flags & _CURRENT_MODE:
        screen.width, screen.height = max(1, width), max(1, height)
        core.rescreened = True


def _scale(core: ClientState, screen: LogicalOutput, factor: int) -> None:
    screen.scale = max(1, factor)
    core.rescreened = True


def _logical_size(
    core: ClientState, size: LogicalSize, width: int, height: int
) -> None:
    if size.screen is not None and width > 0 and height > 0:
        size.screen.logical = (width, height)
        core.rescreened = True


SCREEN_EVENTS: Handlers = {"geometry": _geometry, "mode": _mode, "scale": _scale}
LOGICAL_EVENTS: Handlers = {"logical_size": _logical_size}


def largest(screens: list[LogicalOutput]) -> tuple[int, int]:
    """Width and height that no popup may exceed: the largest screen's."""
    sizes = [size for screen in screens if (size := screen.size()) is not None]
    if not sizes:
        return limits.WAYLAND_UNKNOWN_SCREEN
    return max(w for w, _ in sizes), max(h for _, h in sizes)


# -- events to the client -------------------------------------------------------------


def geometry(
    core: ClientState,
    output: ProtocolObject,
    x: int,
    y: int,
    w: int,
    h: int,
    subpixel: int,
    _make: bytes,
    _model: bytes,
    turn: int,
) -> None:
    # guard: outputs blurred
    core.down.data += _geometry_message(
        output.cid, x, y, w, h, subpixel, b"Vitrail", b"screen", turn
    )


_geometry_message = emit.event("wl_output", "geometry")


def _hide(interface: str, name: str, text: bytes) -> Callable[..., None]:
    """Return the handler that sends a client ``text`` in place of an output's."""
    write = emit.event(interface, name)

    def hidden(core: ClientState, output: ProtocolObject, _told: bytes) -> None:
        core.down.data += write(output.cid, text)

    return hidden


def output_name(core: ClientState, output: ProtocolObject, told: bytes) -> None:
    core.down.data += _name_message(output.cid, core.screen_name(told))


def xdg_output_name(core: ClientState, output: ProtocolObject, told: bytes) -> None:
    core.down.data += _xdg_name_message(output.cid, core.screen_name(told))


_name_message = emit.event("wl_output", "name")
_xdg_name_message = emit.event("zxdg_output_v1", "name")


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    ("wl_output", "release"): FORWARD,
    ("zxdg_output_v1", "destroy"): FORWARD,
}
EVENTS: Rules = {
    ("wl_output", "geometry"): geometry,
    ("wl_output", "mode"): FORWARD,
    ("wl_output", "done"): FORWARD,
    ("wl_output", "scale"): FORWARD,
    ("wl_output", "name"): output_name,
    ("wl_output", "description"): _hide("wl_output", "description", b"screen"),
    ("zxdg_output_v1", "logical_position"): FORWARD,
    ("zxdg_output_v1", "logical_size"): FORWARD,
    ("zxdg_output_v1", "done"): FORWARD,
    ("zxdg_output_v1", "name"): xdg_output_name,
    ("zxdg_output_v1", "description"): _hide(
        "zxdg_output_v1", "description", b"screen"
    ),
}
CLASSES: Classes = {"wl_output": BoundGlobal}
