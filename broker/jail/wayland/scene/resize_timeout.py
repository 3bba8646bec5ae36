"""Work that is due later: frames of windows that do not shrink, and windows that wait.

A compositor that has asked for a smaller window may show the present one at the size
that it asked for, and cut the rest off: newer versions of sway do so 200 ms later, and
then the frame has no right and no lower side.  So a window that is asked to be smaller,
and has not answered after a while, is cropped to the requested size, with its frame
whole. What its application answers counts again.

A request to be maximised or fullscreen that the compositor has not answered after a while
is answered here (``screen_states.py``).

The compositor is acknowledged nothing: only the application can say which
configure its next picture is for.

A window that comes too fast waits for its first configure event, without which it cannot
be shown (``choice.may_come``).  So do answers to wl_display.sync: some clients, wl-copy(1)
among them, take one for the sign that the event has come, and show the window.
"""

from __future__ import annotations

from broker.core.limits import wayland as limits
from broker.jail.wayland import choice, screen_states
from broker.jail.wayland.model import Popup, Toplevel, XdgSurface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.wire import internal
from broker.jail.wayland.scene import commit, shown, window_state
from broker.jail.wayland.state import ClientState


# A late window is cropped, and nothing is acknowledged for it. Newer versions of sway
# show a window at the size that they asked for 200 ms later, whatever the application
# does, and cut off the excess: the right and the lower side of the frame. The filter
# could have acknowledged in the application's place, asked for decorations of the
# client's own so that sway does not cut, or made the frame smaller at once. A configure
# acknowledged on behalf of the client claims that a picture answers it, which is false;
# without sway's own title bars its users would lose their setting; and at once would
# crop every resize of applications that are never late. So the frame waits 100 ms, then
# it and the crop become as small as was asked, in an ordinary commit.
def hurry(core: ClientState, now: float) -> None:
    """Crop the windows that are late by now.  ``core.due`` says when to call again."""
    if core.fault is not None:
        return
    core.now, core.due = now, None
    try:
        _crop_late(core, now)
        screen_states.answer_late(core, now)
        _await_shown(core, now)
        _let_in(core)
        send_syncs(core)
    except Exception as error:  # noqa: BLE001 - one door: see internal
        core.fail(internal(error))


def _crop_late(core: ClientState, now: float) -> None:
    """Crop windows whose answer to a new size is late."""
    for xdg in list(core.windows):
        role = xdg.role
        if not isinstance(role, Toplevel) or role.due is None:
            continue
        if role.due > now:
            core.due = min(role.due, core.due or role.due)
            continue
        role.due = None
        _crop(core, xdg, role)


def _await_shown(core: ClientState, now: float) -> None:
    """Dismiss popups whose window is not shown in time; ask for windows that are due."""
    for xdg in list(core.windows):
        role = xdg.role
        if isinstance(role, Toplevel) and role.postponed:
            role.postponed = False
            shown.await_drawn(core, xdg)
        if not isinstance(role, Popup) or role.waits is None:
            continue
        if role.waits <= now:
            # guard: a popup waits for its window for a while
            window_state.cut_loose(core, xdg, role)
        else:
            core.due = min(role.waits, core.due or role.waits)


def held(core: ClientState, window: Toplevel, serial: int) -> bool:
    """Hold back a first configure event (``serial``) where windows come too fast.

    Sets when to retry.  Return whether it is held.
    """
    # guard: a window that comes too fast waits
    window.held = 0 if _may_come(core, window) else serial
    if window.held and window.xdg is not None:
        core.arriving.add(window.xdg)
    return bool(window.held)


def _may_come(core: ClientState, window: Toplevel) -> bool:
    """Whether its turn has come; else ``hurry`` is to ask again."""
    if choice.may_come(core.sandbox, window, core.now):
        return True
    later = core.now + limits.WAYLAND_LATE_SECONDS
    core.due = min(later, core.due or later)
    return False


def send_syncs(core: ClientState) -> None:
    """Send the client's wl_display.sync requests, unless a window waits for its turn."""
    # Each window is looked at until it waits no more, not with each sync.
    while core.arriving:
        xdg = core.arriving.pop()
        # guard: no answer to a sync precedes a configure event that waits
        if _waits(core, xdg):
            core.arriving.add(xdg)
            return
    for callback in core.unsent_syncs:
        core.up.data += emit.sync(1, core.give_sid(callback))
    core.unsent_syncs.clear()


def _waits(core: ClientState, xdg: XdgSurface) -> bool:
    role = xdg.role
    if not isinstance(role, Toplevel) or not xdg.committed or xdg.mapped:
        return False
    # The compositor may answer the sync before it sends the configure event.
    return bool(role.held) or (not xdg.serials and not _may_come(core, role))


def _let_in(core: ClientState) -> None:
    """Send configure events to windows whose turn has come."""
    for xdg in sorted(core.windows, key=lambda xdg: xdg.number):
        role = xdg.role
        if isinstance(role, Toplevel) and role.held:
            serial = role.held
            if not held(core, role, serial):
                core.down.data += screen_states.configure_surface(xdg.cid, serial)


def _crop(core: ClientState, xdg: XdgSurface, role: Toplevel) -> None:
    """Crop a window to the size that the compositor has asked for."""
    large = window_state.too_large(core, xdg, role)
    # guard: nor without an answer
    if not (large or role.bound):
        return
    if xdg.frame is None:
        return
    # guard: a late window fills no former size
    xdg.frame.fills = False
    if not window_state.may_have(core, role, xdg.frame.edges):
        # guard: a frame after real fullscreen
        xdg.frame.change_edges(core.edges)
    role.cap = window_state.room(core, role, xdg.frame)
    if large and xdg.surface is not None:
        # guard: late windows are cropped
        commit.relayout(core, xdg.surface)
