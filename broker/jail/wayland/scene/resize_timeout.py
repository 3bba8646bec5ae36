"""Windows whose application does not take a configured size: their frames do.

A compositor that has asked for a smaller window may show the present one at the size
that it asked for, and cut the rest off: newer versions of sway do so 200 ms later, and
then the frame has no right and no lower side.  So a window that is asked to be smaller,
and has not answered after a while, is cropped to the requested size, with its frame
whole. What its application answers counts again.

The compositor is acknowledged nothing: only the application can say which
configure its next picture is for.
"""

from __future__ import annotations

from broker.jail.wayland.model import FULLSCREEN, Toplevel, XdgSurface
from broker.jail.wayland.protocol.wire import internal
from broker.jail.wayland.scene import commit, window_state
from broker.jail.wayland.state import ClientState


def hurry(core: ClientState, now: float) -> None:
    """Crop whatever is late by now.  ``core.due`` says when to call again."""
    if core.fault is not None:
        return
    core.now, core.due = now, None
    try:
        _crop_late(core, now)
    except Exception as error:  # noqa: BLE001 - one door: see internal
        core.fail(internal(error))


def _crop_late(core: ClientState, now: float) -> None:
    for xdg in list(core.windows):
        role = xdg.role
        if not isinstance(role, Toplevel) or role.due is None:
            continue
        if role.due > now:
            core.due = min(role.due, core.due or role.due)
            continue
        role.due = None
        _crop(core, xdg, role)


def _crop(core: ClientState, xdg: XdgSurface, role: Toplevel) -> None:
    large = window_state.too_large(core, xdg, role)
    # guard: nor without an answer
    if not (large or role.bound):
        return
    role.cap = role.configured
    if xdg.frame is not None:
        # guard: a late window fills no former size
        xdg.frame.fills = False
    if large and xdg.surface is not None and xdg.frame is not None:
        if FULLSCREEN not in role.states:
            # guard: a frame after real fullscreen
            xdg.frame.change_edges(core.edges)  # it was really so, without any
        # guard: late windows are cropped
        commit.relayout(core, xdg.surface)
