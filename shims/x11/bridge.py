"""The bridge without sockets: what its parts are, and how it begins."""

from __future__ import annotations

from typing import Callable

from shims.x11.core import Core
from shims.x11.drags import Drags
from shims.x11.manager import WindowManager
from shims.x11.objects import WaylandObject
from shims.x11.pools import Pools
from shims.x11.roles import Roles
from shims.x11.screens import Screens
from shims.x11.seat import SeatInput
from shims.x11.selections import Selections
from shims.x11.surfaces import Surfaces


class Bridge:
    """One connection to the compositor with one Xwayland.

    Feed ``core.relay.up``, ``core.relay.down`` and ``core.x``, then call ``work``; what is
    to be sent is in their ``out``.  Xwayland may start when ``on_ready`` was called.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        log: Callable[[str], None],
        cookie: bytes = b"",
        scale: float = 0.0,
    ) -> None:
        self.core = core = Core(clock, log, cookie)
        core.begin.append(self._make_helper)
        self.on_ready: Callable[[], None] = lambda: None
        self.pools = Pools(core.relay)
        self.surfaces = Surfaces(core, self.pools)
        self.roles = Roles(core, self.surfaces)
        self.screens = Screens(core, scale, self._moved)
        self.selections = Selections(core)
        self.seat = SeatInput(core, self.surfaces.show)
        self.drags = Drags(core, self.selections, self.seat, self.roles.hide_since)
        self.windows = WindowManager(core, self.roles)
        self.roles.on_dismissed = self.seat.click_outside
        self.windows.property_changed = self.selections.property_changed
        self.seat.on_focus = self.selections.say_again
        core.relay.hear("wl_callback", done=self._done)
        core.relay.ask(core.relay.display, "get_registry", core.registry)
        self._then(self._bind)

    def work(self) -> None:
        """Handle what was fed.  Raises BridgeError when this connection is at its end."""
        self.core.x.handle()
        self.core.relay.handle()
        self.core.tick()
        self.selections.expire()

    def close(self) -> None:
        """Close all descriptors that are left."""
        self.selections.close()
        self.pools.close()
        self.core.relay.close()

    def _moved(self) -> None:
        self.windows.move_all()

    def _make_helper(self) -> None:
        x = self.core.x
        self.core.helper = x.create_window()
        x.request(8, self.core.helper)
        x.own(self.core.helper, "_XSETTINGS_S0")

    def _then(self, action: Callable[[], None]) -> None:
        """Call back when the compositor has done everything before."""
        relay = self.core.relay
        relay.create(relay.display, "sync", data=action)

    def _done(self, callback: WaylandObject, value: int) -> None:
        if callback.data is not None:
            callback.data()
        elif not callback.dead:
            self.core.relay.tell(callback, "done", value)

    def _bind(self) -> None:
        core = self.core
        core.wm = core.required("xdg_wm_base", 3)
        core.seat = core.required("wl_seat", 5)
        self.surfaces.viewporter = core.bind("wp_viewporter", 1)
        self.roles.decorations = core.bind("zxdg_decoration_manager_v1", 1)
        self.roles.dialogs = core.bind("xdg_wm_dialog_v1", 1)
        self.roles.activation = core.bind("xdg_activation_v1", 1)
        self.screens.start()
        self.selections.start()
        self._then(self._offer)

    def _offer(self) -> None:
        self.screens.offer()
        self.on_ready()
