"""Whether the user chose the window that has the keyboard.

Most compositors give a new window the keyboard, so a window that comes by itself receives
keys that were typed for another program.  Such a key is neither an excuse for the
next window nor a gesture.  A window is *chosen* when its mapping answered input, when a
button or finger pressed it, or when it has had the keyboard for some seconds on end.

Buttons and fingers always count: the user sees what lies under the pointer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.model import Popup, Surface, Toplevel, XdgSurface

if TYPE_CHECKING:
    from broker.jail.wayland.sandbox import Sandbox


def _window(surface: Surface) -> Toplevel | None:
    """Return the window that a surface belongs to, also by way of popups."""
    xdg = surface.root().xdg
    while xdg is not None and isinstance(xdg.role, Popup):
        xdg = xdg.role.parent
    role = xdg.role if xdg is not None else None
    return role if isinstance(role, Toplevel) else None


def map_window(sandbox: Sandbox, window: Toplevel, now: float) -> bool:
    """Record that a window is mapped; return whether it may be, by the limit of pace.

    Returns whether it may: without a pace an application could play for the focus,
    until a key that the user pressed for another window arrives in its own.
    """
    excuse = sandbox.excuse
    window.since = None
    # guard: a window that comes by itself is not chosen
    window.chosen = (
        excuse is not None and now - excuse <= limits.WAYLAND_MAPPING_INPUT_SECONDS
    )
    if window.chosen:
        return True
    granted, window.granted = window.granted, None
    sandbox.give_back("mappings", granted)
    return sandbox.may("mappings", limits.WAYLAND_MAPPINGS_PER_MINUTE, now)


def may_come(sandbox: Sandbox, window: Toplevel, now: float) -> bool:
    """Return whether a window gets its first configure event now, or later.

    So a client that opens many windows gets them later, rather than being ended by
    ``map_window``, for which the place that it gets here counts.
    """
    excuse = sandbox.excuse
    asked = excuse is not None and now - excuse <= limits.WAYLAND_MAPPING_INPUT_SECONDS
    if asked or window.granted is not None:
        return True
    if sandbox.may("mappings", limits.WAYLAND_MAPPINGS_PER_MINUTE, now):
        window.granted = now
    return window.granted is not None


def unmap_window(sandbox: Sandbox, window: Toplevel, now: float) -> None:
    """A window goes; the keyboard may fall to another one of the sandbox."""
    if not window.chosen:
        sandbox.unasked = now


def unmap_all(sandbox: Sandbox, windows: Iterable[XdgSurface], now: float) -> None:
    """A connection ends, with its windows."""
    for xdg in windows:
        if xdg.mapped and isinstance(xdg.role, Toplevel):
            unmap_window(sandbox, xdg.role, now)


def press(surface: Surface) -> None:
    """A button or finger goes down in a window, or on its frame."""
    window = _window(surface)
    if window is not None:
        window.chosen = True


def take_keyboard(
    sandbox: Sandbox, focused: Iterable[Surface], surface: Surface, now: float
) -> None:
    """Record that a surface gets the keyboard, and if the user chose its window."""
    window = _window(surface)
    if window is None or any(_window(on) is window for on in focused):
        return
    window.since = now
    gone = sandbox.unasked
    # Some compositors give it to the parent of a window that ended.
    # guard: a window that ends hands on no keys
    if gone is not None and now - gone <= limits.WAYLAND_MAPPING_INPUT_SECONDS:
        window.chosen = False


def counts(surface: Surface, when: float) -> bool:
    """Return whether a key in this surface at this time counts as the user's input."""
    window = _window(surface)
    if window is None:
        return False
    since = window.since
    if since is not None and when - since >= limits.WAYLAND_CHOSEN_SECONDS:
        window.chosen = True
    return window.chosen
