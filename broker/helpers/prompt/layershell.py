"""``zwlr_layer_shell_v1`` for pywayland, which ships only wayland-protocols.

Written from the protocol's wire: the arguments of each message, and its number.
Only the requests that the dialog makes have a method; every event is here, because the
library reads them by this table.

The prompt agent uses it for the dialog, the program that draws frames for these.
"""

from __future__ import annotations

from typing import Any

from pywayland.protocol.wayland import WlOutput, WlSurface
from pywayland.protocol.xdg_shell import XdgPopup
from pywayland.protocol_core import Argument, ArgumentType, Interface, Proxy

OVERLAY = 3
"""The layer above everything, also above fullscreen windows."""
EXCLUSIVE = 1
"""The keyboard is this surface's for as long as it is there."""

_UINT, _INT = Argument(ArgumentType.Uint), Argument(ArgumentType.Int)


class LayerSurface(Interface):
    """A surface in a layer of the desktop."""

    name = "zwlr_layer_surface_v1"
    version = 4


class LayerShell(Interface):
    """The global that makes them."""

    name = "zwlr_layer_shell_v1"
    version = 4


class LayerSurfaceProxy(Proxy[LayerSurface]):
    """The client's side of one."""

    interface = LayerSurface

    @LayerSurface.request(_UINT, _UINT)
    def set_size(self, width: int, height: int) -> None:
        """Ask for a size, in surface coordinates."""
        self._marshal(0, width, height)

    @LayerSurface.request(_UINT)
    def set_anchor(self, anchor: int) -> None:
        """Keep to edges; 0: in the middle."""
        self._marshal(1, anchor)

    @LayerSurface.request(_INT)
    def set_exclusive_zone(self, zone: int) -> None:
        """Reserve room; -1: lie over those who did."""
        self._marshal(2, zone)

    # Not called: the place of a request in this class is its number on the wire.
    @LayerSurface.request(_INT, _INT, _INT, _INT)
    def set_margin(self, top: int, right: int, bottom: int, left: int) -> None:
        """Keep away from edges."""
        self._marshal(3, top, right, bottom, left)

    @LayerSurface.request(_UINT)
    def set_keyboard_interactivity(self, mode: int) -> None:
        """How it gets the keyboard."""
        self._marshal(4, mode)

    @LayerSurface.request(Argument(ArgumentType.Object, interface=XdgPopup))
    def get_popup(self, popup: Any) -> None:
        """Make a popup its child."""
        self._marshal(5, popup)

    @LayerSurface.request(_UINT)
    def ack_configure(self, serial: int) -> None:
        """Say that a size has been taken note of."""
        self._marshal(6, serial)

    @LayerSurface.request()
    def destroy(self) -> None:
        """Remove the surface from the screen."""
        self._marshal(7)
        self._destroy()

    @LayerSurface.event(_UINT, _UINT, _UINT)
    def configure(self, serial: int, width: int, height: int) -> None:
        """The compositor suggests a size."""
        self._marshal(0, serial, width, height)

    @LayerSurface.event()
    def closed(self) -> None:
        """The surface is no longer shown."""
        self._marshal(1)


class LayerShellProxy(Proxy[LayerShell]):
    """The client's side of the global."""

    interface = LayerShell

    @LayerShell.request(
        Argument(ArgumentType.NewId, interface=LayerSurface),
        Argument(ArgumentType.Object, interface=WlSurface),
        Argument(ArgumentType.Object, interface=WlOutput, nullable=True),
        _UINT,
        Argument(ArgumentType.String),
    )
    def get_layer_surface(
        self,
        surface: Any,
        output: Any,
        layer: int,
        namespace: str,
    ) -> Any:
        """Give a surface its layer role; output None: the compositor chooses."""
        return self._marshal_constructor(
            0, LayerSurface, surface, output, layer, namespace
        )

    @LayerShell.request(version=3)
    def destroy(self) -> None:
        """Let go of the global."""
        self._marshal(1)
        self._destroy()


for _interface, _proxy in (
    (LayerSurface, LayerSurfaceProxy),
    (LayerShell, LayerShellProxy),
):
    _interface._gen_c()  # noqa: SLF001 -- as its scanner's output does
    _interface.proxy_class = _proxy
