"""Pictures that wait for the one before them to be shown (wp_fifo_v1).

A window's picture comes with its frame, in a commit of the frame's surface, so it is that
one that waits: frame and content wait together.  Waiting pictures are a queue in the
compositor, which no protocol bounds, so only a few may wait; a further one replaces what
is shown at once, as without this protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.model import Popup, SurfaceState, XdgSurface
from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.scene.frame import Frame

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

MANAGER, FIFO = "wp_fifo_manager_v1", "wp_fifo_v1"

_get_fifo = emit.request(MANAGER, "get_fifo")
_set_barrier = emit.request(FIFO, "set_barrier")
_wait_barrier = emit.request(FIFO, "wait_barrier")


class _Shown(ProtocolObject):
    """Our callback: the pictures until then have been shown."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame) -> None:
        super().__init__("wl_callback", 1)
        self.frame = frame


def _shown(_core: ClientState, callback: _Shown, _time: int) -> None:
    # guard: each shown picture makes room for one
    callback.frame.waits -= 1


_EVENTS: dispatch.Handlers = {"done": _shown}


def constrain(core: ClientState, xdg: XdgSurface, state: SurfaceState) -> None:
    """Have the next commit of a window's frame wait, or others wait for it."""
    frame = xdg.frame
    if frame is None or not core.fifo or isinstance(xdg.role, Popup):
        return
    if frame.fifo is None:
        frame.fifo = core.own(FIFO)
        core.up.data += _get_fifo(core.fifo, frame.fifo.sid, frame.root.sid)
    if state.wait and _may_wait(core, xdg, frame):
        frame.waits += 1
        core.up.data += _wait_barrier(frame.fifo.sid)
        callback = core.own("wl_callback", _Shown(frame))
        callback.events = dispatch.own_events("wl_callback", _EVENTS)
        core.up.data += emit.frame(frame.root.sid, callback.sid)
    if state.barrier:
        core.up.data += _set_barrier(frame.fifo.sid)


def _may_wait(core: ClientState, xdg: XdgSurface, frame: Frame) -> bool:
    """Return whether a picture may be shown later than its commit.

    Not under menus: these touch the window as it was committed, and a window that is
    larger or smaller a moment later would leave them alone.
    """
    # guard: few pictures wait
    if frame.waits >= limits.WAYLAND_FIFO_WAITS:
        return False
    # guard: nothing waits under menus
    if any(
        isinstance(other.role, Popup) and other.role.parent is xdg
        for other in core.windows
    ):
        return False
    # guard: nothing waits under a promoted surface
    return all(
        sub.promoted is None or sub.promoted.window is not xdg for sub in core.promoted
    )
