"""zwp_text_input_v3: an application and the input method, while it has the focus.

Compositors apply what any text input commits: a window in the background could
end the input method of the window that has the keyboard, or move its candidates.
So without the focus nothing passes but the end of the object.  The compositor's
``done`` counts the commits that it got, the client's the ones that it sent; the
difference is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.handlers.seat import client_surface, named
from broker.jail.wayland.input_model import Seat, TextInput
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.scene.geometry import clamp
from broker.jail.wayland.seat_devices import request_device

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_KIND, _MANAGER = "zwp_text_input_v3", "zwp_text_input_manager_v3"
_get_text_input = emit.request(_MANAGER, "get_text_input")
_enter = emit.event(_KIND, "enter")
_leave = emit.event(_KIND, "leave")
_done = emit.event(_KIND, "done")
_enable = emit.request(_KIND, "enable")
_disable = emit.request(_KIND, "disable")
_commit = emit.request(_KIND, "commit")
_set_surrounding_text = emit.request(_KIND, "set_surrounding_text")
_set_text_change_cause = emit.request(_KIND, "set_text_change_cause")
_set_content_type = emit.request(_KIND, "set_content_type")
_set_cursor_rectangle = emit.request(_KIND, "set_cursor_rectangle")
_COUNT = 0xFFFFFFFF
_AROUND_BYTES = 4000
"""Of surrounding text (text-input-unstable-v3, set_surrounding_text)."""
_INSIDE = frozenset(bytes([byte]) for byte in range(0x80, 0xC0))
"""Bytes of UTF-8 that continue a character."""
_HINTS, _PURPOSES = 0x3FF, 13
"""All bits of content_hint, and the last value of content_purpose."""


def get_text_input(
    core: ClientState, manager: ProtocolObject, new_id: int, seat: Seat
) -> None:
    """Create a text input of a seat, at the compositor once the seat has a device."""
    text = core.make(new_id, _KIND, manager.version, server=False)

    def send() -> None:
        bound = core.bind_host(_MANAGER) if manager.dead else manager
        if bound is not None:
            sid = core.give_sid(text)
            core.up.data += _get_text_input(bound.sid, sid, seat.sid)
        if bound is not None and bound is not manager:
            core.end_own(bound)

    request_device(core, seat, text, (_MANAGER, "get_text_input"), send)


# -- what the client asks ------------------------------------------------------------


def _focus(text: TextInput) -> Surface | None:
    """Return the surface that has the text input's focus.

    A compositor need not say that it left a surface that the client has destroyed.
    """
    # guard: a destroyed surface has no focus of text input
    return None if text.focus is None or text.focus.dead else text.focus


def enable(core: ClientState, text: TextInput) -> None:
    """Enable text input for a client with the focus."""
    # guard: text input enabled only with the focus
    if _focus(text) is None:
        return
    if text.enabled:
        # Its end came without the focus and did not pass: say it now, or the
        # compositor takes this for no change.
        core.up.data += _disable(text.sid) + _commit(text.sid)
        text.uncounted -= 1
    text.enabled = True
    core.up.data += _enable(text.sid)


def disable(core: ClientState, text: TextInput) -> None:
    if _focus(text) is not None:
        text.enabled = False
        core.up.data += _disable(text.sid)


def set_surrounding_text(
    core: ClientState, text: TextInput, around: bytes, cursor: int, anchor: int
) -> None:
    """Pass text around the cursor on, if its places are inside of it."""
    # A program of the user's desktop reads it, and compositors check nothing of it.
    # guard: the input method gets text, and places in it
    if not _has_places(around, cursor, anchor):
        return
    if _focus(text) is not None:
        core.up.data += _set_surrounding_text(text.sid, around, cursor, anchor)


def _has_places(untrusted_around: bytes, *untrusted_places: int) -> bool:
    """Return whether each place is a character boundary of a text."""
    size = len(untrusted_around)
    return size <= _AROUND_BYTES and all(
        0 <= place <= size and untrusted_around[place : place + 1] not in _INSIDE
        for place in untrusted_places
    )


def set_text_change_cause(core: ClientState, text: TextInput, cause: int) -> None:
    if _focus(text) is not None:
        core.up.data += _set_text_change_cause(text.sid, min(cause, 1))


def set_content_type(
    core: ClientState, text: TextInput, hint: int, purpose: int
) -> None:
    if _focus(text) is not None:
        purpose = purpose if purpose <= _PURPOSES else 0
        core.up.data += _set_content_type(text.sid, hint & _HINTS, purpose)


def set_cursor_rectangle(
    core: ClientState, text: TextInput, x: int, y: int, w: int, h: int
) -> None:
    """Forward the cursor rectangle, moved by the frame's edges."""
    focus = _focus(text)
    if focus is None:
        return
    far = limits.WAYLAND_COORDINATE
    x, y = clamp(x, -far, far), clamp(y, -far, far)
    xdg = focus.xdg
    if xdg is not None and xdg.frame is not None:
        rect = xdg.geometry
        x += xdg.frame.edges.left - (rect.x if rect is not None else 0)
        y += xdg.frame.edges.top - (rect.y if rect is not None else 0)
    core.up.data += _set_cursor_rectangle(
        text.sid, x, y, clamp(w, 0, far), clamp(h, 0, far)
    )


def commit(core: ClientState, text: TextInput) -> None:
    # guard: text input with the focus only
    if _focus(text) is None:
        text.uncounted += 1
    else:
        core.up.data += _commit(text.sid)


# -- what the compositor says --------------------------------------------------------


def enter(core: ClientState, text: TextInput, surface: ProtocolObject | None) -> None:
    text.focus = client_surface(surface)
    if text.focus is not None:
        core.down.data += _enter(text.cid, text.focus.cid)


def leave(core: ClientState, text: TextInput, _surface: ProtocolObject | None) -> None:
    before, text.focus = text.focus, None
    cid = named(core, before)
    if cid:
        core.down.data += _leave(text.cid, cid)


def done(core: ClientState, text: TextInput, serial: int) -> None:
    core.down.data += _done(text.cid, (serial + text.uncounted) & _COUNT)


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    (_MANAGER, "get_text_input"): get_text_input,
    (_KIND, "destroy"): FORWARD,
    (_KIND, "enable"): enable,
    (_KIND, "disable"): disable,
    (_KIND, "set_surrounding_text"): set_surrounding_text,
    (_KIND, "set_text_change_cause"): set_text_change_cause,
    (_KIND, "set_content_type"): set_content_type,
    (_KIND, "set_cursor_rectangle"): set_cursor_rectangle,
    (_KIND, "commit"): commit,
}
EVENTS: Rules = {
    (_KIND, "enter"): enter,
    (_KIND, "leave"): leave,
    (_KIND, "preedit_string"): FORWARD,
    (_KIND, "commit_string"): FORWARD,
    (_KIND, "delete_surrounding_text"): FORWARD,
    (_KIND, "done"): done,
}
CLASSES: Classes = {_KIND: TextInput}
