"""The state of one client: what handlers and the scene read and change.

``ClientState`` is the lowest module that names it all.  Handlers and the scene take it
as their first argument and import nothing above it; ``filter.py`` derives
``WaylandFilter`` from it, which reads bytes and ends the connection.  What lower modules
need of upper ones is an abstract method here, so that imports go one way: `filter`,
`handlers`, `scene`, `state`, `model`, `protocol`.

Fields that a handler's module makes (``Hands``, ``Globals``) are set by the filter and
only annotated here: importing their classes would be the way back up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

from broker.core import limits
from broker.core.limits import wayland as wayland_limits
from broker.jail.wayland import choice
from broker.jail.wayland.buffer_model import Buffer, Pool
from broker.jail.wayland.input_model import Keyboard, OwnSurface, Pointer
from broker.jail.wayland.model import (
    FULLSCREEN,
    Subsurface,
    Surface,
    Toplevel,
    XdgSurface,
    window_of,
)
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.protocol.ids import HandlerTables, ObjectTable
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.protocol.serials import Serials
from broker.jail.wayland.scene import label
from broker.jail.wayland.scene.frame import Edges, LabelPicture, Palette

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.core.streams.wayland_rules import WindowRules
    from broker.jail.wayland.handlers.attention import IdleInhibitor
    from broker.jail.wayland.handlers.cursor import ArrowCursor
    from broker.jail.wayland.handlers.drag_start import DragStart
    from broker.jail.wayland.handlers.host_seat import Hands
    from broker.jail.wayland.handlers.outputs import LogicalOutput
    from broker.jail.wayland.handlers.registry import Globals
    from broker.jail.wayland.handlers.selection import DataDevice
    from broker.jail.wayland.ports import GpuMemory, OperatingSystem, Paint
    from broker.jail.wayland.protocol.wire import Fd
    from broker.jail.wayland.sandbox import Sandbox
    from broker.jail.wayland.scene.geometry import Rect
    from broker.jail.wayland.scene.icon import Badge

_TITLE_BARS = frozenset(
    {"zxdg_decoration_manager_v1", "org_kde_kwin_server_decoration_manager"}
)
"""Offered by compositors that draw title bars for windows of Wayland programs."""
ENOUGH = wayland_limits.WAYLAND_QUEUE_BYTES
"""Bytes in a queue from which on nothing more is added unasked."""


class ClientState(ObjectTable, ABC):
    """Fields of one connection, grouped by purpose."""

    def __init__(
        self,
        rules: WindowRules,
        sandbox: Sandbox,
        machine: OperatingSystem,
        wake: Callable[[], None],
        tables: HandlerTables,
    ) -> None:
        super().__init__(sandbox, tables)
        self.rules = rules
        self.machine = machine
        self.wake = wake
        self._init_progress()
        self._init_compositor()
        self._init_windows()
        self._init_input()

    def _init_progress(self) -> None:
        """Initialise the connection's error, clock, budgets, and paused work."""
        self.ready = False
        self.fault: Exception | None = None
        self.paused = False
        self.now = 0.0
        self.due: float | None = None
        self.messages = 0
        self.pixels = 0
        self.copied: tuple[int, int] | None = None
        """Rows that are left of the picture that is being copied."""
        self.fence: tuple[GpuMemory, float] | None = None
        """The memory whose drawing a commit waits for, and until when."""

    def _init_compositor(self) -> None:
        """Initialise the compositor's globals and our objects there.

        0 for absent ones.
        """
        self.globals: Globals
        self.registries: dict[int, ProtocolObject] = {}
        """By the client's id, so that one of thousands is found at once."""
        self.screens: dict[int, LogicalOutput] = {}
        self.screen_sizes = {0: limits.WAYLAND_UNKNOWN_SCREEN}
        """Of the screens that windows were last laid out for."""
        self.rescreened = False
        """A screen has another size, or is gone, since then."""
        self.late: list[Callable[[], None]] = []
        """What is done after all that the compositor sent at once: wlroots 0.15 closes
        several popups together, and ends a connection that commits a closed one."""
        self.answered: list[XdgSurface] = []
        """Windows that the compositor has drawn, until all that it sent is read."""
        self.registry = 0
        self.compositor = self.subcompositor = self.shm = self.viewporter = 0
        self.data_manager = self.data_version = self.cursor_shapes = 0
        self.idle_inhibit = self.dmabuf = 0
        self.icons = self.fifo = 0
        self.badge: Badge | None = None
        """The icon of windows without one, drawn at first use."""
        self.announced: set[tuple[int, int]] = set()
        """Formats of the GPU's memory, each with a modifier, that the compositor takes."""
        self.format_tables: dict[bytes, Paint] = {}
        self.crops_by_buffer = False
        """This compositor ignores where a viewport's source begins."""
        self.pixel_weight = 1
        """The charge for a drawn pixel; higher where the compositor has no GPU."""
        self.clock = 0
        self.clock_shift: Callable[[int], int] | None = None
        """Nanoseconds from a clock to the clock that is announced to the client."""
        self._screen_names: dict[bytes, bytes] = {}
        self._empty_region = 0

    def _init_windows(self) -> None:
        """Initialise the fields for windows, frames and buffers."""
        rules = self.rules
        self._set_edges()
        # Menus get no thicker strip: there is a window below that has it.
        self.popup_edges = Edges(*(rules.border,) * 4)
        self.palette = Palette(self, rules.color)
        self._labels: dict[tuple[int, bool], LabelPicture] = {}
        self.doomed: list[Buffer] = []
        self.pools: set[Pool] = set()
        self.gpu_memory: set[GpuMemory] = set()
        self.windows: set[XdgSurface] = set()
        self.promoted: set[Subsurface] = set()
        self.promotions: list[tuple[XdgSurface, Subsurface, Rect]] = []
        self.inhibitors: list[IdleInhibitor] = []
        self.restless_seconds = wayland_limits.WAYLAND_RESTLESS_SECONDS
        """How long after a change a window may be about to be hidden (``shown.py``)."""
        self.arriving: set[XdgSurface] = set()
        """Committed without a buffer: each may wait for its first configure event."""
        self.unsent_syncs: list[ProtocolObject] = []
        """Callbacks of wl_display.sync that the compositor does not have yet."""

    def _init_input(self) -> None:
        """Initialise the input devices of the client, and what has the focus."""
        self.pointers: list[Pointer] = []
        self.devices: list[DataDevice] = []
        self.hands: Hands
        self.drag: DragStart
        self.focused: dict[Keyboard, Surface] = {}
        self.serials = Serials(self.sandbox.act)
        self.arrow: ArrowCursor | None = None

    # -- asked of the filter -----------------------------------------------------------

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """End the connection, with the reason in an error event of the protocol."""

    @abstractmethod
    def upstream_error(
        self, obj: ProtocolObject | None, code: int, untrusted_text: bytes
    ) -> None:
        """The compositor refused something.  Raises UpstreamError."""

    @abstractmethod
    def take_client_fd(self, obj: ProtocolObject) -> Fd:
        """The next descriptor, which belongs to the message being read."""

    @abstractmethod
    def take_server_fd(self) -> Fd:
        """The next descriptor from the compositor."""

    @abstractmethod
    def own_surface(self, alias: Surface | None) -> OwnSurface:
        """Our surface, created at the compositor."""

    @abstractmethod
    def host_name_of(self, interface: str) -> int | None:
        """The compositor's name for a global; None if it has none."""

    @abstractmethod
    def screen(self) -> tuple[int, int]:
        """Logical size that no popup may exceed."""

    @abstractmethod
    def show_again(self, surface: Surface) -> None:
        """Lay out and show a tree without a commit of the client's."""

    @abstractmethod
    def selection_changed(self, kind: str) -> None:
        """Offer the sandbox's selection again on this client's devices."""

    @abstractmethod
    def dismiss_menus(self) -> None:
        """The user has pressed outside of this client's windows."""

    def run_late(self) -> None:
        """Do what waited until all that the compositor sent at once was read."""
        while self.late:
            self.late.pop(0)()

    def bind_host(self, interface: str) -> ProtocolObject | None:
        """Bind a global of the compositor for one request; None if it has none."""
        name = self.host_name_of(interface)
        if name is None:
            return None
        bound = self.own(interface)
        self.up.data += emit.bind(self.registry, name, interface.encode(), 1, bound.sid)
        return bound

    # -- descriptors -------------------------------------------------------------------

    def discard(self, fd: Fd) -> None:
        """Close a descriptor that goes nowhere."""
        self.machine.close(fd)

    # -- what frames are made of -------------------------------------------------------

    @property
    def labelled(self) -> bool:
        """Return whether frames have the sandbox's name in the upper strip."""
        return bool(self.rules.label) and label.scale_for(self.edges.top) > 0

    def label_pictures(self, height: int) -> Iterator[LabelPicture]:
        """Yield what an upper edge can show, the best first; each is drawn when needed."""
        if self.labelled and height == self.edges.top:
            yield self._label_picture(height, with_name=True)
        # guard: a window that has no room for its name shows a use
        if self.rules.in_use and height:
            yield self._label_picture(height, with_name=False)

    def _label_picture(self, height: int, *, with_name: bool) -> LabelPicture:
        key = height, with_name
        if key not in self._labels:
            self._labels[key] = LabelPicture(self, height, with_name=with_name)
        return self._labels[key]

    def frame_by_compositor(self, offered: frozenset[str]) -> None:
        """Decide on the strips of all frames by the compositor's globals."""
        titles = bool(_TITLE_BARS & offered - self.rules.deny)
        plain = self.rules.top if titles and self.rules.label is None else 0
        self.rules = self.rules.with_name()
        self._set_edges()
        if plain:
            self.titled_edges = self.edges._replace(top=plain)

    def _set_edges(self) -> None:
        border = self.rules.border
        self.edges = Edges(border, max(self.rules.top, 1), border, border)
        self.titled_edges = self.edges
        """Of windows that have their name in a title bar of the compositor's."""

    def edges_for(self, window: Toplevel) -> Edges:
        """Return the frame of a window that is not really fullscreen."""
        # No compositor draws a title bar on a fullscreen window.
        # guard: a window has a name where its program draws the title bar
        titled = window.titled and FULLSCREEN not in window.states
        return self.titled_edges if titled else self.edges

    def with_look(self, rules: WindowRules) -> WindowRules:
        """Return this connection's rules with the colour and words of other ones."""
        own = self.rules
        strip = rules.strip if rules.named_top == own.named_top else b""
        return replace(
            own,
            color=rules.color,
            marks=rules.marks,
            in_use=rules.in_use,
            strip=strip,
        )

    def change_look(self, rules: WindowRules) -> None:
        """Frames that are drawn from now on have the colour and words of these rules."""
        if rules.color != self.rules.color:
            self.palette.change_color(rules.color)
        self.rules = self.with_look(rules)
        self._labels = {}

    def empty_region(self) -> int:
        """A region without a point, kept for strips."""
        if not self._empty_region:
            self._empty_region = self.own("wl_region").sid
            self.up.data += emit.create_region(self.compositor, self._empty_region)
        return self._empty_region

    def screen_name(self, told: bytes) -> bytes:
        """Return a constant name for an output, the same as long as we run."""
        if (
            told not in self._screen_names
            and len(self._screen_names) < wayland_limits.WAYLAND_BUFFERS
        ):
            self._screen_names[told] = f"SCREEN-{len(self._screen_names) + 1}".encode()
        return self._screen_names.get(told, b"SCREEN-0")

    # -- focus and counters ------------------------------------------------------------

    def focus_keyboard(self, keyboard: Keyboard, surface: Surface) -> None:
        """Record that a window of this client gets the keyboard.

        Offer it the selections.
        """
        first = not self.focused
        choice.take_keyboard(self.sandbox, self.focused.values(), surface, self.now)
        self.focused[keyboard] = surface
        self.hands.refocused = True
        self.sandbox.note_focus()
        if first:
            for kind in self.sandbox.selections:
                self.selection_changed(kind)

    def blur_keyboard(self, keyboard: Keyboard) -> None:
        """Handle that a keyboard has left the client's window, or is gone itself.

        Serials are retired with the last one, and the viewer is sent the focus.
        """
        before = self.focused.pop(keyboard, None)
        if before is not None:
            self.stir(before.root().xdg)
        self.hands.refocused = True
        if not self.focused:
            self.serials.retire()
        self.sandbox.note_focus()

    def stir(self, xdg: XdgSurface | None) -> None:
        """The compositor changes a window's size, state or focus: it may hide it."""
        window = window_of(xdg)
        if window is not None and isinstance(window.role, Toplevel):
            window.role.restless = self.now + self.restless_seconds

    def lose_focus(self, surface: Surface) -> None:
        """Remove the focus of keyboards and pointers from a destroyed surface."""
        for keyboard in [k for k, on in self.focused.items() if on is surface]:
            if keyboard.judge is not None:
                # Some compositors send no leave event for a destroyed surface.
                # guard: a destroyed window's focus has no chord
                keyboard.judge.leave()
            self.blur_keyboard(keyboard)
        for pointer in self.pointers:
            if pointer.focus is surface:
                pointer.focus, pointer.lost = None, surface

    @property
    def crowded(self) -> bool:
        """Return whether the queue to the client is full."""
        down = self.down
        return (
            len(down.data) > ENOUGH
            or down.fd_count > wayland_limits.WAYLAND_FDS_IN_FLIGHT
        )

    def spend_pixels(self, count: int) -> None:
        """A buffer of so many pixels was committed (for the rate limit)."""
        self.pixels += count
