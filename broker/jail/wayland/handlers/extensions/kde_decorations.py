"""org_kde_kwin_server_decoration_manager: the only protocol for title bars that GTK has.

A program makes a decoration of a surface, often before that is a window.  The compositor
receives it with the window, and for the surface of our frame; the rest is as with
``decorations.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland import canonical
from broker.jail.wayland.canonical import Treatment
from broker.jail.wayland.configure_requests import configuring
from broker.jail.wayland.handlers.extensions import decorations
from broker.jail.wayland.model import Surface, Toplevel
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_MANAGER = "org_kde_kwin_server_decoration_manager"
_DECORATION = "org_kde_kwin_server_decoration"


class SurfaceDecoration(decorations.Decoration):
    """An org_kde_kwin_server_decoration.

    ``mode`` is what the program asked for last, None if it leaves the choice.
    """

    __slots__ = ("manager", "mode")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.manager: ProtocolObject | None = None
        self.mode: int | None = None


def create(
    core: ClientState, manager: ProtocolObject, new_id: int, surface: Surface
) -> None:
    """Create a surface's decoration; the second one of a window stays in the filter."""
    decoration = core.make(new_id, _DECORATION, manager.version, server=False)
    assert isinstance(decoration, SurfaceDecoration)
    decoration.manager, surface.decoration = manager, decoration
    role = surface.xdg.role if surface.xdg is not None else None
    if isinstance(role, Toplevel):
        decorate(core, role)


def decorate(core: ClientState, toplevel: Toplevel) -> None:
    """Give a window the decoration that its surface has, if it has one."""
    surface = toplevel.xdg.surface if toplevel.xdg is not None else None
    decoration = surface.decoration if surface is not None else None
    if not isinstance(decoration, SurfaceDecoration) or decoration.dead:
        return
    present = toplevel.decoration

    def send() -> None:
        frame = toplevel.xdg.frame if toplevel.xdg is not None else None
        if frame is None or decoration.manager is None:
            return
        toplevel.decoration, decoration.toplevel = decoration, toplevel
        sid = core.give_sid(decoration)
        core.up.data += _create(decoration.manager.sid, sid, frame.root.sid)
        if decoration.mode is not None:
            core.up.data += _request_mode(sid, decoration.mode)

    # guard: one decoration for each window, of either protocol
    free = present is None or present.dead
    if not free or canonical.submit(toplevel, canonical.CREATE, send) is not (
        Treatment.SEND
    ):
        core.down.data += _mode(decoration.cid, decorations.CLIENT_SIDE)


_create = emit.request(_MANAGER, "create")
_request_mode = emit.request(_DECORATION, "request_mode")


def request_mode(core: ClientState, decoration: SurfaceDecoration, mode: int) -> None:
    """Ask for who draws the title bar; KWin ignores other numbers."""
    if mode <= decorations.SERVER_SIDE:
        decoration.mode = mode
        decorations.set_mode(core, decoration, mode, canonical.REQUEST_MODE)


def forward_mode(core: ClientState, decoration: SurfaceDecoration, mode: int) -> None:
    """Forward who draws the title bar."""
    decorations.take_mode(core, decoration, mode)
    core.down.data += _mode(decoration.cid, mode)


_mode = emit.event(_DECORATION, "mode")

REQUESTS: Rules = {
    (_MANAGER, "create"): create,
    (_DECORATION, "release"): decorations.destroy_decoration,
    (_DECORATION, "request_mode"): configuring(request_mode),
}
EVENTS: Rules = {
    (_MANAGER, "default_mode"): FORWARD,
    (_DECORATION, "mode"): forward_mode,
}
CLASSES: Classes = {_DECORATION: SurfaceDecoration}
