"""Configure events of a window from before it was unmapped.

A client unmaps a window and begins anew with a commit without a picture, which the
compositor answers with a configure event (xdg-shell, "xdg_surface").  A configure event that it had
sent before is not that answer; yet it arrives after the unmap was sent, and a client
that acknowledges it shows a window which the compositor has not accepted.  KWin 5.27
accepts no popup a second time: with a popup on such a one it ended.  So a wl_callback
follows the unmap, and what comes before its event is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.protocol import dispatch
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.sync import send_sync

if TYPE_CHECKING:
    from broker.jail.wayland.model import XdgSurface
    from broker.jail.wayland.state import ClientState


class _Fence(ProtocolObject):
    """Our wl_callback, which comes when the compositor has read a window's unmap."""

    __slots__ = ("xdg",)

    def __init__(self, xdg: XdgSurface) -> None:
        super().__init__("wl_callback", 1)
        self.xdg = xdg


def begin_again(core: ClientState, xdg: XdgSurface) -> None:
    """Expect no configure event until the compositor has read what was sent so far."""
    # A window is shown only after a configure event, so there is one fence at a time
    # for each, however often it is unmapped.
    xdg.unmapping = True
    send_sync(core, _FENCE_EVENTS, _Fence(xdg))


def _passed(_core: ClientState, fence: _Fence, _data: int) -> None:
    fence.xdg.unmapping = False


_FENCE_EVENTS: dispatch.Handlers = {"done": _passed}


def is_former(xdg: XdgSurface, serial: int) -> bool:
    """Return whether a configure event is of before the window was unmapped."""
    # guard: no configure event of before an unmap
    if not xdg.unmapping:
        return False
    xdg.stale = [*xdg.stale, serial][-limits.WAYLAND_SHELL_OPS :]
    return True
