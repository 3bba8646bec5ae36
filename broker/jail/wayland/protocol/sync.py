"""Our own ``wl_display.sync``: a wl_callback that marks what the compositor has read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.wayland.protocol import dispatch, emit
from broker.jail.wayland.protocol.objects import ProtocolObject

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState


def send_sync(
    core: ClientState,
    handlers: dispatch.Handlers,
    callback: ProtocolObject | None = None,
) -> None:
    """Have ``handlers["done"]`` called once all requests before this one are read.

    ``callback`` carries what the handler needs; without it a plain object is made.
    """
    made = core.own("wl_callback", callback)
    made.events = dispatch.own_events("wl_callback", handlers)
    core.up.data += emit.sync(1, made.sid)
