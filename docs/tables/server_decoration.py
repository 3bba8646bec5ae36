"""KDE's protocol for title bars for pywayland, which ships only wayland-protocols.

Written from the protocol's wire, for the tables of messages: nothing calls a method.
"""

from __future__ import annotations

from pywayland.protocol.wayland import WlSurface
from pywayland.protocol_core import Argument, ArgumentType, Interface

_MODE = Argument(ArgumentType.Uint)


class ServerDecoration(Interface):
    """Who draws the title bar of a surface."""

    name = "org_kde_kwin_server_decoration"
    version = 1


class ServerDecorationManager(Interface):
    """The global that makes them."""

    name = "org_kde_kwin_server_decoration_manager"
    version = 1


@ServerDecoration.request()
def release() -> None:
    """End it."""


@ServerDecoration.request(_MODE)
def request_mode() -> None:
    """Ask for a mode."""


@ServerDecoration.event(_MODE)
def mode() -> None:
    """Tell the mode in force."""


@ServerDecorationManager.request(
    Argument(ArgumentType.NewId, interface=ServerDecoration),
    Argument(ArgumentType.Object, interface=WlSurface),
)
def create() -> None:
    """Make a surface's decoration."""


@ServerDecorationManager.event(_MODE)
def default_mode() -> None:
    """Tell the mode of a new one."""
