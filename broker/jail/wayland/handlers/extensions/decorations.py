"""zxdg_decoration_manager_v1: who draws a window's decoration.

The compositor is told what the client asks for; the sandbox's frame is around either,
and has the sandbox's name where the compositor draws no title bar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland import canonical, screen_states
from broker.jail.wayland.canonical import Treatment
from broker.jail.wayland.configure_requests import configuring
from broker.jail.wayland.model import Toplevel
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import screen_change, window_state

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

_DECORATION = "zxdg_toplevel_decoration_v1"
_DECORATIONS = "zxdg_decoration_manager_v1"
_ALREADY_CONSTRUCTED = 1
CLIENT_SIDE, SERVER_SIDE = 1, 2
"""Modes, with the same numbers in both protocols."""


class Decoration(ProtocolObject):
    """A zxdg_toplevel_decoration_v1, or KDE's (``kde_decorations.py``)."""

    __slots__ = ("toplevel",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.toplevel: Toplevel | None = None


def get_decoration(
    core: ClientState, manager: ProtocolObject, new_id: int, toplevel: Toplevel
) -> None:
    """Create a window's decoration.  Raises ProtocolFault for a second one."""
    former = toplevel.decoration
    if former is not None and former.interface != _DECORATION:
        # A plugin of Qt has made KDE's, too; this one counts.
        window_state.lose_title_bar(core, toplevel)
        end_decoration(core, toplevel)
    elif former is not None and not former.dead:
        raise ProtocolFault(
            manager.cid, _ALREADY_CONSTRUCTED, "the window already has a decoration"
        )
    made = core.make(new_id, _DECORATION, manager.version, server=False)
    assert isinstance(made, Decoration)
    made.toplevel, toplevel.decoration = toplevel, made

    def send() -> None:
        if not (made.dead or manager.dead):
            sid = core.give_sid(made)
            core.up.data += _get_decoration(manager.sid, sid, toplevel.sid)

    # A mapped window's is an error of the protocol's (unconfigured_buffer).  sway 1.7
    # keeps one that was unmapped for 200 ms, without a workspace, and ends by this.
    # guard: no decoration of an unmapped window
    if canonical.submit(toplevel, canonical.GET_DECORATION, send) is not Treatment.SEND:
        core.down.data += _configure(made.cid, CLIENT_SIDE)


_get_decoration = emit.request(_DECORATIONS, "get_toplevel_decoration")


def destroy_decoration(core: ClientState, decoration: Decoration) -> None:
    """Destroy a decoration: the window has no title bar of the compositor's then."""
    if decoration.sid and decoration.toplevel is not None:
        window_state.lose_title_bar(core, decoration.toplevel)
    core.destroy(decoration)


def set_mode(
    core: ClientState,
    decoration: Decoration,
    mode: int,
    request: canonical.Request = canonical.SET_MODE,
) -> None:
    """Ask for who draws the title bar; the name comes before that may go."""
    if decoration.toplevel is None or decoration.toplevel.dead:
        return
    if mode != SERVER_SIDE:
        window_state.lose_title_bar(core, decoration.toplevel)
    _submit_mode(core, decoration, request, mode)


def _submit_mode(
    core: ClientState, decoration: Decoration, request: canonical.Request, *mode: int
) -> None:
    """Send a change of the mode now, or once the window is mapped."""

    def send() -> None:
        if decoration.sid and not decoration.dead:
            core.up.data += _MODES[request](decoration.sid, *mode)

    if decoration.toplevel is not None:
        # guard: no mode of an unmapped window's decoration
        canonical.submit(decoration.toplevel, request, send)


def unset_mode(core: ClientState, decoration: Decoration) -> None:
    """Leave the choice to the compositor, which may take its title bar away."""
    if decoration.toplevel is None or decoration.toplevel.dead:
        return
    # guard: a name where the compositor is left the choice
    window_state.lose_title_bar(core, decoration.toplevel)
    _submit_mode(core, decoration, canonical.UNSET_MODE)


_MODES = {
    request: emit.request(*request)
    for request in (canonical.SET_MODE, canonical.UNSET_MODE, canonical.REQUEST_MODE)
}


def take_mode(core: ClientState, decoration: Decoration, mode: int) -> None:
    """Note who draws the title bar; the frame follows with the acknowledgement."""
    toplevel = decoration.toplevel
    if toplevel is not None:
        before = core.edges_for(toplevel)
        toplevel.titled = mode == SERVER_SIDE and not toplevel.own_title
        if core.edges_for(toplevel) != before and any(toplevel.offered):
            # The size of the same configure event may have come before.
            screen_change.take_size(core, toplevel, toplevel.offered)
            screen_states.tell(core, toplevel)


def configure(core: ClientState, decoration: Decoration, mode: int) -> None:
    """Pass on who draws the title bar."""
    take_mode(core, decoration, mode)
    core.down.data += _configure(decoration.cid, mode)


_configure = emit.event(_DECORATION, "configure")


def end_decoration(core: ClientState, toplevel: Toplevel) -> None:
    """End a window's decoration at the compositor; the client keeps the object.

    wlroots 0.15 writes into a window's freed memory when its decoration ends later.
    """
    decoration = toplevel.decoration
    if decoration is None or decoration.dead or not decoration.sid:
        return
    former = ProtocolObject(decoration.interface, 1)
    former.sid, decoration.sid = decoration.sid, 0
    core.by_server[former.sid] = former
    core.end_own(former)


REQUESTS: Rules = {
    (_DECORATIONS, "get_toplevel_decoration"): get_decoration,
    (_DECORATION, "destroy"): destroy_decoration,
    (_DECORATION, "set_mode"): configuring(set_mode),
    (_DECORATION, "unset_mode"): configuring(unset_mode),
}
EVENTS: Rules = {(_DECORATION, "configure"): configure}
CLASSES: Classes = {_DECORATION: Decoration}
