"""What a compositor receives about a window in each of its states.

Compositors end or freeze over orders that the protocols allow: a decoration of a window
that was just unmapped, a ring of parents that an unmap closes, a device that a seat does
not have.  So the filter sends canonical orders only.  ``ORDERS`` has a row for each
request that names a window, ``DEVICES`` for each that needs a capability of a seat;
handlers submit their requests here, and ``docs/wayland.md`` prints the rows.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from broker.jail.wayland.model import Surface, Toplevel, XdgSurface, window_of

Request = tuple[str, str]
"""Interface and name."""


class WindowState(enum.Enum):
    """A toplevel window's state at the compositor."""

    NEW = "new"
    """Never mapped."""
    MAPPED = "mapped"
    UNMAPPED = "unmapped"
    """Mapped earlier: compositors keep parts of such a window for a while."""
    GONE = "gone"
    """Destroyed, with its role or its surface, or never a window."""


class Treatment(enum.Enum):
    """Treatment of a request in one state of its window."""

    SEND = "sent"
    HOLD = "held until it is mapped"
    COMMIT = "held until its next commit"
    DROP = "dropped"


class Order(NamedTuple):
    """A request's rule in each state of the window that it names, and what is sent."""

    new: Treatment
    mapped: Treatment
    unmapped: Treatment
    sent: str

    def rule(self, state: WindowState) -> Treatment:
        """Return the rule for a window in this state."""
        return {
            WindowState.NEW: self.new,
            WindowState.MAPPED: self.mapped,
            WindowState.UNMAPPED: self.unmapped,
            WindowState.GONE: Treatment.DROP,
        }[state]


_SEND, _HOLD, _COMMIT, _DROP = (
    Treatment.SEND,
    Treatment.HOLD,
    Treatment.COMMIT,
    Treatment.DROP,
)
_AS_IT_IS = "the request"
_ONCE_MAPPED = Order(_DROP, _SEND, _DROP, _AS_IT_IS)
_NOT_UNMAPPED = Order(_SEND, _SEND, _DROP, _AS_IT_IS)
_LAST = Order(_SEND, _SEND, _HOLD, "the request, of held ones the last")
_DECORATION = "zxdg_toplevel_decoration_v1"
GET_DECORATION = ("zxdg_decoration_manager_v1", "get_toplevel_decoration")
SET_MODE, UNSET_MODE = (_DECORATION, "set_mode"), (_DECORATION, "unset_mode")
CREATE = ("org_kde_kwin_server_decoration_manager", "create")
REQUEST_MODE = ("org_kde_kwin_server_decoration", "request_mode")
GET_DIALOG = ("xdg_wm_dialog_v1", "get_xdg_dialog")
EXPORT = ("zxdg_exporter_v2", "export_toplevel")
SET_PARENT = ("xdg_toplevel", "set_parent")
MOVE, RESIZE = ("xdg_toplevel", "move"), ("xdg_toplevel", "resize")
SHOW_MENU = ("xdg_toplevel", "show_window_menu")
START_DRAG = ("wl_data_device", "start_drag")
ACTIVATE = ("xdg_activation_v1", "activate")
SET_SURFACE = ("xdg_activation_token_v1", "set_surface")
RING = ("xdg_system_bell_v1", "ring")

ORDERS: Mapping[Request, Order] = MappingProxyType(
    {
        GET_DECORATION: Order(_SEND, _DROP, _DROP, "the request; a dropped one is answered: the program draws its title bar"),
        SET_MODE: _LAST,
        UNSET_MODE: _LAST,
        CREATE: Order(_SEND, _DROP, _DROP, "the request, for the frame's surface; a dropped one is answered: the program draws its title bar"),
        REQUEST_MODE: _LAST,
        GET_DIALOG: _LAST,
        ("xdg_dialog_v1", "set_modal"): _LAST,
        ("xdg_dialog_v1", "unset_modal"): _LAST,
        SET_PARENT: Order(_SEND, _SEND, _COMMIT, "no parent, if it has one; then the parent, once that is mapped"),
        ("zxdg_imported_v2", "set_parent_of"): Order(_SEND, _SEND, _COMMIT, "`set_parent` in one connection; else no parent, then a separate import for this parent, once that is mapped"),
        EXPORT: Order(_HOLD, _SEND, _HOLD, "one export, which is destroyed before the window is unmapped"),
        MOVE: _ONCE_MAPPED,
        RESIZE: _ONCE_MAPPED,
        SHOW_MENU: _ONCE_MAPPED,
        START_DRAG: Order(_DROP, _SEND, _DROP, "the request with a source; the filter adds one with a private type if the program names no source"),
        ACTIVATE: _NOT_UNMAPPED,
        SET_SURFACE: _NOT_UNMAPPED,
        RING: _NOT_UNMAPPED,
    }
)  # fmt: skip


def state_of(xdg: XdgSurface | None) -> WindowState:
    """Return the state of a toplevel window."""
    if xdg is None or xdg.role is None or xdg.surface is None:
        return WindowState.GONE
    if xdg.mapped:
        return WindowState.MAPPED
    return WindowState.UNMAPPED if xdg.unmapped else WindowState.NEW


def rule_for(request: Request, window: Toplevel) -> Treatment:
    """Return a request's rule in the present state of its window."""
    # guard: orders by the state of their window
    return ORDERS[request].rule(state_of(window.xdg))


def is_sent(request: Request, target: Toplevel | Surface | None) -> bool:
    """Return whether a request that names a window, or a surface of one, is sent now."""
    root = target.root() if isinstance(target, Surface) else target
    window = window_of(root.xdg) if root is not None else None
    role = window.role if window is not None else None
    return isinstance(role, Toplevel) and rule_for(request, role) is Treatment.SEND


def submit(window: Toplevel, request: Request, send: Callable[[], None]) -> Treatment:
    """Call ``send`` now, once the window is mapped, or never; return its rule."""
    rule = rule_for(request, window)
    window.held_requests.pop(request, None)
    if rule is Treatment.SEND:
        send()
    elif rule is Treatment.HOLD:
        # One for each request, so what is held is bounded by the table.
        window.held_requests[request] = send
    return rule


# -- seats ---------------------------------------------------------------------------


class Capability(enum.IntFlag):
    """Bits of wl_seat.capability."""

    POINTER = 1
    KEYBOARD = 2
    TOUCH = 4


ANY_DEVICE = Capability.POINTER | Capability.KEYBOARD | Capability.TOUCH
DEVICES: Mapping[Request, Capability] = MappingProxyType(
    {
        ("wl_seat", "get_pointer"): Capability.POINTER,
        ("wl_seat", "get_keyboard"): Capability.KEYBOARD,
        ("wl_seat", "get_touch"): Capability.TOUCH,
        # Typed text comes without a keyboard, too: from one on the screen.
        ("zwp_text_input_manager_v3", "get_text_input"): ANY_DEVICE,
    }
)
"""Capabilities for each request: the seat must have one when it is sent."""
