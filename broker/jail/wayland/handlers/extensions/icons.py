"""Icons of windows (xdg-toplevel-icon): an application's picture, redrawn by us.

The compositor's icon objects are all ours (``scene/icon.py``).  Of an application's only
the pixels of one small square are read, when it gives them to a window; the name of an
icon of the desktop's theme is not passed on, as that one would have no border.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.buffer_model import Buffer
from broker.jail.wayland.model import Toplevel
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.dispatch import DROP, FORWARD, Classes, Rules
from broker.jail.wayland.protocol.ids import ObjectTable
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.wire import ProtocolFault
from broker.jail.wayland.scene import icon
from broker.jail.wayland.scene.held_buffers import INVALID_FD

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

INVALID_BUFFER, IMMUTABLE, NO_BUFFER = 1, 2, 3
"""Error codes, as the protocol numbers them."""
_ARGB, _XRGB = 0, 1


class Icon(ProtocolObject):
    """A client's xdg_toplevel_icon_v1; ``best`` is the buffer whose size suits us most."""

    __slots__ = ("best", "used")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.best: Buffer | None = None
        self.used = False


def sizes_known(core: ClientState, manager: ProtocolObject) -> None:
    """Announce one size of icons to the client, not the compositor's list."""
    core.down.data += _icon_size(manager.cid, icon.INNER)
    core.down.data += _done(manager.cid)


_icon_size = emit.event(icon.MANAGER, "icon_size")
_done = emit.event(icon.MANAGER, "done")


def create_icon(core: ClientState, _manager: ProtocolObject, new_id: int) -> None:
    core.make(new_id, icon.ICON, 1, server=False)


def set_name(_core: ClientState, client_icon: Icon, _untrusted_name: bytes) -> None:
    _may_change(client_icon)


def add_buffer(
    _core: ClientState, client_icon: Icon, buffer: Buffer, untrusted_scale: int
) -> None:
    """Keep a picture that suits an icon best so far.  Raises ProtocolFault."""
    _may_change(client_icon)
    side = buffer.width
    # guard: icons are squares of shared memory
    if buffer.pool is None or side != buffer.height or untrusted_scale < 1:
        raise ProtocolFault(
            client_icon.cid, INVALID_BUFFER, f"invalid icon of {side}x{buffer.height}"
        )
    # guard: icons are small
    if side > limits.WAYLAND_ICON_SIDE or buffer.form not in {_ARGB, _XRGB}:
        return
    best = client_icon.best
    if best is None or _suits(side) >= _suits(best.width):
        client_icon.best = buffer


def _may_change(client_icon: Icon) -> None:
    if client_icon.used:
        raise ProtocolFault(client_icon.cid, IMMUTABLE, "the icon is in use")


def _suits(side: int) -> int:
    """How well a size suits: the next larger one best, else the largest."""
    return limits.WAYLAND_ICON_SIDE - side if side >= icon.INNER else side - icon.INNER


def set_icon(
    core: ClientState,
    _manager: ProtocolObject,
    toplevel: Toplevel,
    client_icon: Icon | None,
) -> None:
    """Set or remove a window's own icon, at a limited pace."""
    picture = b""
    # guard: an icon that a window has is not set again
    if client_icon is None and not toplevel.icon:
        return
    if client_icon is not None:
        client_icon.used = True
        # guard: icons have a pace
        if not core.sandbox.may("icons", limits.WAYLAND_ICONS_PER_MINUTE, core.now):
            return
        if client_icon.best is not None:
            picture = _picture(client_icon, client_icon.best)
    toplevel.icon = picture
    if toplevel.xdg is not None and toplevel.xdg.committed:
        icon.tell(core, toplevel)


def _picture(client_icon: Icon, buffer: Buffer) -> bytes:
    """Read an icon's pixels from its pool, and scale them.  Raises ProtocolFault."""
    # guard: an icon's buffer lives
    if buffer.dead or buffer.pool is None or buffer.pool.file is None:
        raise ProtocolFault(client_icon.cid, NO_BUFFER, "the icon has no buffer")
    file = buffer.pool.file

    def row(y: int) -> bytes:
        return file.read(buffer.offset + y * buffer.stride, buffer.width * 4)

    try:
        drawn = icon.shrunk(row, buffer.width, opaque=buffer.form == _XRGB)
    except ValueError as error:
        raise ProtocolFault(
            buffer.cid, INVALID_FD, f"shared memory: {error}"
        ) from error
    # waypipe 0.8 sends pixels of surfaces alone: an icon that shows nothing does not count.
    return drawn if drawn != icon.NOTHING else b""


# -- tables ----------------------------------------------------------------------

REQUESTS: Rules = {
    (icon.MANAGER, "destroy"): FORWARD,
    (icon.MANAGER, "create_icon"): create_icon,
    (icon.MANAGER, "set_icon"): set_icon,
    (icon.ICON, "destroy"): ObjectTable.drop_local,
    (icon.ICON, "set_name"): set_name,
    (icon.ICON, "add_buffer"): add_buffer,
}
EVENTS: Rules = {
    (icon.MANAGER, "icon_size"): DROP,
    (icon.MANAGER, "done"): sizes_known,
}
CLASSES: Classes = {icon.ICON: Icon}
