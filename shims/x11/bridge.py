"""The bridge without sockets: what its parts are, and how it begins."""

from __future__ import annotations

from shims.x11.core import Action, Core
from shims.x11.drags import Drags
from shims.x11.manager import WindowManager
from shims.x11.objects import WireObject
from shims.x11.pools import Pools
from shims.x11.roles import Roles
from shims.x11.screens import Screens
from shims.x11.seat import SeatInput
from shims.x11.selections import Selections
from shims.x11.surfaces import Surfaces
from shims.x11.wire import BridgeError

BOUND = (
    ("xdg_wm_base", 3), ("wl_seat", 5), ("wl_output", 2), ("wp_viewporter", 1),
    ("zxdg_output_manager_v1", 1), ("zxdg_decoration_manager_v1", 1),
    ("xdg_wm_dialog_v1", 1), ("xdg_activation_v1", 1), ("wl_data_device_manager", 3),
    ("zwp_primary_selection_device_manager_v1", 1),
)  # fmt: skip
"""What the bridge uses itself, with the newest version that it knows."""


class Bridge:
    """One connection to the compositor with one Xwayland.

    Feed ``core.relay.up``, ``core.relay.down`` and ``core.x``, then call ``work``; what is
    to be sent is in their ``out``.  Xwayland may start when ``on_ready`` was called.
    """

    def __init__(self, core: Core, scale: float = 0.0) -> None:
        self.core = core
        core.attach(self)
        self.on_ready: Action = lambda: None
        self.pools = Pools(core.relay)
        self.surfaces = Surfaces(core, self.pools)
        self.roles = Roles(core, self.surfaces)
        self.screens = Screens(core, scale)
        self.selections = Selections(core)
        self.seat = SeatInput(core)
        self.drags = Drags(core, self.selections, self.seat)
        self.windows = WindowManager(core, self.roles)
        core.relay.ask(core.relay.display, "get_registry", core.registry)
        self._then(self._bind)

    def work(self) -> None:
        """Handle the fed bytes.  Raises BridgeError when this connection is at its end."""
        self.core.x.handle()
        self.core.relay.handle()
        self.core.tick()
        self.selections.expire()

    def close(self) -> None:
        """Close all descriptors that are left."""
        self.selections.close()
        self.pools.close()
        self.core.relay.close()

    def _on_managing(self) -> None:
        x = self.core.x
        self.core.helper = x.create_window()
        x.request(8, self.core.helper)
        x.own(self.core.helper, "_XSETTINGS_S0")

    def _then(self, action: Action) -> None:
        """Call back when the compositor has done everything before."""
        relay = self.core.relay
        relay.create(relay.display, "sync", data=action)

    def _wl_callback_done(self, callback: WireObject, value: int) -> None:
        if callback.data is not None:
            callback.data()
        elif not callback.dead:
            self.core.relay.tell(callback, "done", value)

    def _bind(self) -> None:
        """Bind the compositor's globals.  Raises BridgeError."""
        core = self.core
        for interface, most in BOUND:
            core.bind(interface, most)
        missing = {"xdg_wm_base", "wl_seat"} - core.bound.keys()
        if missing:
            raise BridgeError(f"the compositor lacks {' and '.join(missing)}")
        core.wm, core.seat = core.bound["xdg_wm_base"], core.bound["wl_seat"]
        core.tell("bound")
        self._then(self._offer)

    def _offer(self) -> None:
        self.screens.offer()
        self.on_ready()
