"""What a surface shows (content-type-v1), and in which rhythm (fifo-v1).

Both are held for the surface's commit, as a buffer is.  commit-timing-v1 is not offered:
its times lie as far in the future as a client likes, and its pictures would be a queue
whose end nobody knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import FORWARD, Classes, Rules
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import fifo

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

TYPES, TYPE = "wp_content_type_manager_v1", "wp_content_type_v1"
ALREADY_EXISTS = 0
SURFACE_DESTROYED = 0
"""Error codes, as the protocols number them."""
_NONE, _GAME = 0, 3
"""wp_content_type_v1.type"""


class SurfaceHint(ProtocolObject):
    """A wp_content_type_v1 or wp_fifo_v1 of the client's."""

    __slots__ = ("surface",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.surface: Surface | None = None


def _claim(
    core: ClientState, manager: ProtocolObject, new_id: int, surface: Surface, kind: str
) -> SurfaceHint:
    """Create the one object of its kind that a surface has.  Raises ProtocolFault."""
    # guard: one hint of a kind for a surface
    if kind in surface.hints:
        raise ProtocolFault(
            manager.cid, ALREADY_EXISTS, f"the surface already has a {kind}"
        )
    made = core.make(new_id, kind, 1, server=kind == TYPE)
    assert isinstance(made, SurfaceHint)
    made.surface = surface
    surface.hints[kind] = made
    return made


def get_content_type(
    core: ClientState, manager: ProtocolObject, new_id: int, surface: Surface
) -> None:
    made = _claim(core, manager, new_id, surface, TYPE)
    core.up.data += _get_type(manager.sid, made.sid, surface.sid)


_get_type = emit.request(TYPES, "get_surface_content_type")


def set_content_type(
    _core: ClientState, hint: SurfaceHint, untrusted_type: int
) -> None:
    """Hold a known content type until the surface's next commit."""
    surface = hint.surface
    # guard: content types that are known
    if surface is None or surface.dead or untrusted_type > _GAME:
        return
    surface.pending.content_type = untrusted_type


def destroy_content_type(core: ClientState, hint: SurfaceHint) -> None:
    _forget(hint)
    core.destroy(hint)


def _forget(hint: SurfaceHint) -> None:
    """Remove the hint from its surface: no pending commit may name a dead object."""
    if hint.surface is not None and hint.surface.hints.get(hint.interface) is hint:
        # guard: no content type of an object that is gone
        del hint.surface.hints[hint.interface]


def get_fifo(
    core: ClientState, manager: ProtocolObject, new_id: int, surface: Surface
) -> None:
    _claim(core, manager, new_id, surface, fifo.FIFO)


def _paced(hint: SurfaceHint) -> Surface:
    if hint.surface is None or hint.surface.dead:
        raise ProtocolFault(hint.cid, SURFACE_DESTROYED, "the fifo has no surface")
    return hint.surface


def set_barrier(_core: ClientState, hint: SurfaceHint) -> None:
    _paced(hint).pending.barrier = True


def wait_barrier(_core: ClientState, hint: SurfaceHint) -> None:
    _paced(hint).pending.wait = True


def destroy_fifo(core: ClientState, hint: SurfaceHint) -> None:
    _forget(hint)
    core.drop_local(hint)


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    (TYPES, "destroy"): FORWARD,
    (TYPES, "get_surface_content_type"): get_content_type,
    (TYPE, "destroy"): destroy_content_type,
    (TYPE, "set_content_type"): set_content_type,
    (fifo.MANAGER, "destroy"): FORWARD,
    (fifo.MANAGER, "get_fifo"): get_fifo,
    (fifo.FIFO, "set_barrier"): set_barrier,
    (fifo.FIFO, "wait_barrier"): wait_barrier,
    (fifo.FIFO, "destroy"): destroy_fifo,
}
EVENTS: Rules = {}
CLASSES: Classes = {TYPE: SurfaceHint, fifo.FIFO: SurfaceHint}
