"""A drag's start that the compositor passed over is asked for once more.

A compositor starts a drag from the surface that the pointer pressed.  Most mean the surface
that they sent the client, KWin (5.27, 6.0) the window's, which is our frame's; for
another one KWin does nothing and sends nothing.  So the client's own is named first,
and if nothing whatever followed, and the pointer is still where it was, the frame's:
with the same serial, once.  Both are checked by the compositor against the button that
is pressed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.sync import send_sync

if TYPE_CHECKING:
    from broker.jail.wayland.handlers.selection import DataDevice, DataSource
    from broker.jail.wayland.model import Surface
    from broker.jail.wayland.state import ClientState


@dataclass
class AskedDrag:
    """A drag that a client starts, and may still have been passed over."""

    device: DataDevice
    source: DataSource | FilterDragSource
    origin: Surface
    icon: Surface | None
    serial: int


class FilterDragSource(ProtocolObject):
    """Our wl_data_source of a drag whose client named none; ``mime`` is its type."""

    __slots__ = ("mime",)

    def __init__(self, mime: bytes, version: int) -> None:
        super().__init__("wl_data_source", version)
        self.mime = mime


class DragStart:
    """The last drag that a client started."""

    __slots__ = ("asked", "local", "waiting")

    def __init__(self) -> None:
        self.local: FilterDragSource | None = None
        """Our source of a drag without one, which other clients must not see."""
        self.asked: AskedDrag | None = None
        self.waiting = False
        """Whether the reply that follows the compositor's handling is still missing."""


def send(core: ClientState, asked: AskedDrag) -> None:
    """Ask the compositor to start a drag; ask again if it sends no event of it."""
    _request_drag(core, asked, asked.origin.sid)
    it = core.drag
    it.asked = asked if any(p.focus is not None for p in core.pointers) else None
    # guard: one question about a start
    if it.asked is not None and not it.waiting:
        # One at a time, however many a client starts.
        it.waiting = True
        send_sync(core, _DONE)


def heard(core: ClientState) -> None:
    """The compositor has sent an event of a drag, or taken the pointer away."""
    # guard: a drag event of the compositor ends the request to start one
    core.drag.asked = None


def _retry(core: ClientState, _callback: ProtocolObject, _serial: int) -> None:
    """Ask for the drag again, from the frame, if the compositor sent no event of it."""
    it = core.drag
    asked, it.asked, it.waiting = it.asked, None, False
    if asked is None or asked.device.dead or asked.origin.dead:
        return
    if asked.source.dead or (
        asked.icon is not None and (asked.icon.dead or asked.icon.icon is None)
    ):
        return
    xdg = asked.origin.root().xdg
    if xdg is not None and xdg.frame is not None:
        _request_drag(core, asked, xdg.frame.root.sid)


# A drag that the compositor passes over is started once more, from the frame.
# start_drag names the surface that was pressed on. sway and weston mean the surface that
# they sent to the client, KWin the window's own, which is our frame's; it silently
# ignores another one, so that no application in a sandbox could drag anything there.
# Which compositor it is cannot be asked, and globals come and go: so the client's
# surface is named first, and where the answer to a `sync` after it comes before any
# word of a drag, and the pointer has not left, the frame's with the same serial. The
# compositor checks both against the button that is down. For the same reason KWin's
# drags come over the frame; they are reported as over the window in it, from the place
# where they first reach the content.
def _request_drag(core: ClientState, asked: AskedDrag, origin: int) -> None:
    """Send wl_data_device.start_drag with an origin's object ID."""
    source, icon = asked.source, asked.icon
    # guard: a dragged picture has a frame
    core.up.data += _start_drag(
        asked.device.sid,
        source.sid,
        origin,
        icon.icon.root.sid if icon is not None and icon.icon is not None else 0,
        asked.serial,
    )


_DONE: dispatch.Handlers = {"done": _retry}
_start_drag = emit.request("wl_data_device", "start_drag")
