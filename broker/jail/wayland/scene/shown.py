"""Which windows the compositor shows: a popup, or fullscreen, is requested on those alone.

sway 1.7 places a popup by the workspace of its window, and dies if none exists, as
for a window in the scratchpad.  wl_surface.enter and leave do not tell: sway 1.7 sends an
enter to a window that a rule puts into the scratchpad at once, and no leave to a window that is
moved there; weston 10 and KWin 5.27 send no leave to a minimised window.  Two things do,
on sway 1.7, weston 10, KWin 5.27 and mutter 43:

* the keyboard, which a window loses with the request that hides it;
* the answer to wl_surface.frame, which comes for what is drawn: for no window in the
  scratchpad, on another workspace or minimised.

So a popup is requested at once on a window that has the keyboard.  Otherwise its first
commit waits in the filter until the compositor has drawn the window: a frame's time.
sway 1.7 draws what it is about to hide for up to 200 ms, until all windows have
acknowledged their new sizes; so a window that was configured, or lost the keyboard, in
the last ``WAYLAND_RESTLESS_SECONDS`` is asked for after them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.model import Popup, Toplevel, XdgSurface, window_of
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


class Drawn(ProtocolObject):
    """Our wl_callback at the frame of a window: it is answered when that is drawn."""

    __slots__ = ("window",)

    def __init__(self, window: XdgSurface) -> None:
        super().__init__("wl_callback", 1)
        self.window = window


def may_take_popups(core: ClientState, parent: XdgSurface) -> bool:
    """Return whether it is known now that the compositor shows a popup's parent."""
    window = window_of(parent)
    # guard: a popup's parent is mapped
    if not parent.mapped or window is None or not window.mapped:
        return False
    role = window.role
    if isinstance(role, Toplevel) and role.drawn:
        return True
    return any(
        window_of(surface.root().xdg) is window for surface in core.focused.values()
    )


# A menu waits for its window to be drawn. sway 1.7 places a menu by the workspace of
# its window, and ends if none exists, as in the scratchpad; KWin 5.27 ends over a
# menu on what is not mapped. So a popup is requested only while its parent is mapped
# and its window is shown. `wl_surface.enter` and `leave` do not say that: sway 1.7
# sends an enter to a window that a rule moves to the scratchpad at once, and no leave
# to a window that is moved there later; weston 10 and KWin 5.27 send no leave to a minimised
# window, only mutter does. Two things say it on all four: the keyboard, which a window
# loses with the request that hides it, and the answer to `wl_surface.frame`, which no
# hidden, minimised or unmapped window gets. A menu of the window with the keyboard is
# requested at once, as before; another one, such as a tooltip of a window in the
# background, waits for one frame of its window. sway 1.7 still draws what it is about
# to hide, for up to 200 ms, so a window that was configured or lost the keyboard in the
# last 250 ms is asked for after that: also one whose configure event came with the
# answer, behind it. A menu whose window is not drawn in two seconds is dismissed. A
# window that is hidden while its menu's request is on the way cannot be known: sway 1.7
# ends then, as it does for a program without the filter.
def await_drawn(core: ClientState, parent: XdgSurface, *, again: bool = False) -> None:
    """Have the compositor say when it has drawn the window below ``parent``.

    ``again``: lay ``parent`` out again then.
    """
    window = window_of(parent)
    role = window.role if window is not None else None
    if window is None or window.frame is None or not isinstance(role, Toplevel):
        return
    if again:
        role.again.add(parent)
    if role.awaited is not None or not window.mapped:
        return
    # guard: a window that may be about to be hidden is asked for later
    if core.now < role.restless:
        role.postponed = True
        core.due = min(role.restless, core.due or role.restless)
        return
    role.awaited = callback = Drawn(window)
    core.own("wl_callback", callback)
    callback.events = dispatch.own_events("wl_callback", _EVENTS)
    core.up.data += emit.frame(window.frame.root.sid, callback.sid)
    window.frame.commit()


def _drawn(core: ClientState, callback: Drawn, _time: int) -> None:
    """Note that the compositor has drawn a window, until all that came with it is read."""
    role = callback.window.role
    if isinstance(role, Toplevel) and role.awaited is callback:
        core.answered.append(callback.window)


def after_frames(core: ClientState) -> None:
    """Request the popups of drawn windows: what hides one may have come right behind."""
    answered, core.answered = core.answered, []
    for window in answered:
        _request_waiting(core, window)


def _request_waiting(core: ClientState, window: XdgSurface) -> None:
    """Request the popups that wait for a window, as the compositor has drawn it."""
    role = window.role
    if not isinstance(role, Toplevel) or role.awaited is None:
        return  # it was unmapped meanwhile
    role.awaited = None
    if core.now < role.restless:
        await_drawn(core, window)
        return
    role.drawn = True
    try:
        for popup in waiting(core, window):
            assert popup.ask is not None
            popup.ask(late=True)
        if role.full is not None:
            role.full()
        parents, role.again = role.again, set()
        for parent in parents:
            if parent.surface is not None and parent.mapped:
                core.show_again(parent.surface)
    finally:
        role.drawn = False


def waiting(core: ClientState, window: XdgSurface) -> list[Popup]:
    """Return the popups on a window whose first commit waits."""
    roles = [xdg.role for xdg in core.windows if isinstance(xdg.role, Popup)]
    return [
        popup
        for popup in roles
        if popup.ask is not None
        and popup.waits is not None
        and window_of(popup.parent) is window
    ]


_EVENTS: dispatch.Handlers = {"done": _drawn}
