"""zxdg_decoration_manager_v1: who draws a window's decoration.

The compositor is told what the client asks for; the sandbox's frame is around either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.configure_requests import passing
from broker.jail.wayland.model import Toplevel
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_DECORATION = "zxdg_toplevel_decoration_v1"
_DECORATIONS = "zxdg_decoration_manager_v1"
_ALREADY_CONSTRUCTED = 1


def get_decoration(
    core: ClientState, manager: ProtocolObject, new_id: int, toplevel: Toplevel
) -> None:
    """Create a window's decoration.  Raises ProtocolFault for a second one."""
    if toplevel.decoration is not None and not toplevel.decoration.dead:
        raise ProtocolFault(
            manager.cid, _ALREADY_CONSTRUCTED, "the window already has a decoration"
        )
    made = toplevel.decoration = core.make(new_id, _DECORATION, manager.version)
    core.up.data += _get_decoration(manager.sid, made.sid, toplevel.sid)


_get_decoration = emit.request(_DECORATIONS, "get_toplevel_decoration")


def end_decoration(core: ClientState, toplevel: Toplevel) -> None:
    """End a window's decoration at the compositor; the client keeps the object.

    wlroots 0.15 writes into a window's freed memory when its decoration ends later.
    """
    decoration = toplevel.decoration
    if decoration is None or decoration.dead:
        return
    former = ProtocolObject(_DECORATION, 1)
    former.sid, decoration.sid = decoration.sid, 0
    core.by_server[former.sid] = former
    core.end_own(former)


REQUESTS: Rules = {
    (_DECORATIONS, "get_toplevel_decoration"): get_decoration,
    (_DECORATION, "set_mode"): passing(_DECORATION, "set_mode"),
    (_DECORATION, "unset_mode"): passing(_DECORATION, "unset_mode"),
}
EVENTS: Rules = {}
CLASSES: Classes = {}
