"""Objects with state: surfaces, their roles, buffers, frames.

wl_surface state is double-buffered (wl_surface.commit): requests change
``Surface.pending``; a commit moves it to ``cached`` (synchronised subsurface)
or applies it.  The filter holds all three stages.  The compositor gets a
state only when it is applied, so our own commits, which resize a frame with
its content, can never flush half of a client's.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from broker.core.limits import wayland as limits
from broker.jail.wayland.buffer_model import Buffer
from broker.jail.wayland.protocol.objects import ProtocolObject
from broker.jail.wayland.scene.geometry import Rect, SourceRect, SurfaceContent, View

if TYPE_CHECKING:
    from broker.jail.wayland.handlers.exported_windows import ImportedWindow
    from broker.jail.wayland.parents import RemovedParent
    from broker.jail.wayland.scene.frame import Edges, Frame
    from broker.jail.wayland.scene.promote import Promoted


class Unset(enum.Enum):
    """The value of a state that a commit does not change."""

    UNSET = 0


UNSET: Final = Unset.UNSET

RegionOps = tuple[tuple[bool, int, int, int, int], ...]
"""A region as the operations that made it: (add, x, y, width, height)."""


class SurfaceRole(enum.Enum):
    """A surface's role; it has one for all its life (wl_surface)."""

    SUBSURFACE = "subsurface"
    WINDOW = "xdg_surface"
    CURSOR = "cursor"
    ICON = "drag icon"


# xdg_toplevel.state
MAXIMIZED, FULLSCREEN = 1, 2
TILED = (5, 6, 7, 8)


def free_cap(role: SurfaceRole | None) -> int:
    """Return the largest side of a surface without a frame, in logical pixels."""
    if role is SurfaceRole.ICON:
        # guard: drag icon cap
        return limits.WAYLAND_DRAG_ICON_PIXELS
    # guard: cursor cap
    return limits.WAYLAND_CURSOR_PIXELS


COMPOSITOR_VERSION = 4
"""Least version of the compositor's wl_compositor: for damage_buffer."""
BOUNDS_VERSION = 4
"""The version of xdg_wm_base that has xdg_toplevel.configure_bounds."""
_FAR = limits.WAYLAND_COORDINATE
_DAMAGES = frozenset({"damage", "buffer_damage"})
EVERYWHERE: Final = (-_FAR, -_FAR, 2 * _FAR, 2 * _FAR)
"""Damage that no surface is larger than."""


class SurfaceState:
    """Double-buffered state of one commit; attributes not set do not change."""

    buffer: Buffer | Unset | None = UNSET
    dx: int = 0
    dy: int = 0
    damage: list[tuple[int, int, int, int]] | None = None
    buffer_damage: list[tuple[int, int, int, int]] | None = None
    frames: list[ProtocolObject] | None = None
    feedbacks: list[tuple[ProtocolObject, ProtocolObject]] | None = None
    scale: int | Unset = UNSET
    transform: int | Unset = UNSET
    source: SourceRect | Unset | None = UNSET
    size: tuple[int, int] | Unset | None = UNSET
    input: RegionOps | Unset | None = UNSET
    opaque: RegionOps | Unset | None = UNSET
    children: list[tuple[str, Subsurface, Any]] | None = None
    geometry: Rect | Unset = UNSET
    shell: list[bytes] | None = None
    hints: bool = False
    constraints: list[tuple[ProtocolObject, str, Any]] | None = None
    edges: Edges | None = None
    maximized: tuple[int, int] | None = None
    granted: Granted | None = None
    content_type: int | Unset = UNSET
    barrier: bool = False
    wait: bool = False

    def absorb(self, later: SurfaceState) -> Buffer | None:
        """Apply a later state over this one; return a buffer that it replaced."""
        replaced = self.buffer if later.buffer is not UNSET else None
        for name, value in vars(later).items():
            mine = vars(self).get(name)
            if isinstance(mine, list):
                mine.extend(value)
                # guard: waiting damage bounded
                if name in _DAMAGES and len(mine) > limits.WAYLAND_DAMAGE:
                    mine[:] = [EVERYWHERE]
            elif name in {"dx", "dy"}:
                setattr(self, name, value + (mine or 0))
            else:
                setattr(self, name, value)
        return replaced if isinstance(replaced, Buffer) else None

    def leave_window(self) -> None:
        """Forget the window's state: the surface may become another one."""
        for name in ("edges", "geometry", "granted", "hints", "maximized", "shell"):
            vars(self).pop(name, None)


class Region(ProtocolObject):
    """A wl_region; only the client knows it, its operations are copied.

    ``around`` is the rectangle around all that was added (left, top, right, bottom).
    Once there are too many, that counts alone: the region is ``joined``.
    """

    __slots__ = ("around", "joined", "ops")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.ops: list[tuple[bool, int, int, int, int]] = []
        self.around: tuple[int, int, int, int] | None = None
        self.joined = False

    def rectangles(self) -> RegionOps:
        """Return its operations, or the one rectangle that takes their place."""
        if not self.joined:
            return tuple(self.ops)
        if self.around is None:
            return ()
        left, top, right, bottom = self.around
        return ((True, left, top, right - left, bottom - top),)


class Viewport(ProtocolObject):
    """A client's wp_viewport; the compositor's one is ours."""

    __slots__ = ("surface",)

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.surface: Surface | None = None


class Surface(ProtocolObject):
    """A client's wl_surface.

    ``crop`` is the part that shows, in its coordinates, ``(cx, cy)`` where
    that part's origin counts as lying: events get it added, positions are
    corrected by it.  ``hot``: by how much a drag icon was moved.  ``attached`` is what
    the client attached last, ``part`` what of it the compositor got, if not all, and
    ``stale`` says that the next picture needs another part.  ``applied`` is the state
    with the newest damage and ``moved`` says that all of it is drawn again: what the next
    commit makes the compositor draw (``budget.py``).  ``pictures`` are the buffers that it
    showed last (``scene/pictures.py``); ``frozen``: its last one was late (``fences.py``).
    """

    __slots__ = (
        "applied",
        "attached",
        "cached",
        "children",
        "constraint",
        "content",
        "crop",
        "cx",
        "cy",
        "decoration",
        "dirty",
        "extent",
        "frozen",
        "hints",
        "hot",
        "icon",
        "inhibitor",
        "input",
        "moved",
        "opaque",
        "outputs",
        "part",
        "pending",
        "pictures",
        "relayout",
        "role",
        "shape",
        "stale",
        "sub",
        "view",
        "viewport",
        "viewport_sid",
        "xdg",
    )

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.pending = SurfaceState()
        self.cached: SurfaceState | None = None
        self.role: SurfaceRole | None = None
        self.sub: Subsurface | None = None
        self.xdg: XdgSurface | None = None
        self.children: list[Subsurface] = []
        self.content = SurfaceContent()
        self.shape = (1, 0)
        self.extent: tuple[int, int] | None = None
        self.crop: Rect | None = None
        self.attached: Buffer | None = None
        self.pictures: list[Buffer] = []
        self.part: Rect | None = None
        self.stale = False
        self.frozen = False
        self.cx = 0
        self.cy = 0
        self.view: View | None = None
        self.viewport: Viewport | None = None
        self.viewport_sid = 0
        self.input: RegionOps | None = None
        self.opaque: RegionOps | None = None
        self.dirty = False
        self.applied: SurfaceState | None = None
        self.moved = False
        self.relayout = False
        self.outputs: dict[int, int] = {}
        self.hints: dict[str, ProtocolObject] = {}
        """One object of each interface of ``extensions/surface_hints.py``."""
        self.hot = (0, 0)
        self.icon: Frame | None = None
        self.constraint: Constraint | None = None
        self.inhibitor: ProtocolObject | None = None
        self.decoration: ProtocolObject | None = None
        """KDE's, which a window on this surface gets (``kde_decorations.py``)."""

    def root(self) -> Surface:
        """The topmost surface of its tree."""
        top = self
        while top.sub is not None and top.sub.parent is not None:
            top = top.sub.parent
        return top

    @property
    def synced(self) -> bool:
        """Return whether commits wait for the parent's (wl_subsurface.set_sync)."""
        sub = self.sub
        while sub is not None and sub.parent is not None:
            if sub.sync:
                return True
            sub = sub.parent.sub
        return False

    @property
    def depth(self) -> int:
        """Return the number of the surface's ancestors."""
        count, top = 0, self
        while top.sub is not None and top.sub.parent is not None:
            top = top.sub.parent
            count += 1
        return count


class Subsurface(ProtocolObject):
    """A wl_subsurface.  For the compositor it is always synchronised.

    ``below`` its parent, or above it; the parent's list of children goes from
    the lowest to the highest.  ``promoted`` while it is shown in a popup of
    its own (``promote.py``), and is then no subsurface at the compositor;
    ``cropped`` says that it may not be, as long as it stays on the screen.
    """

    __slots__ = (
        "below", "cropped", "parent", "placed", "promoted", "surface", "sync",
        "x", "y",
    )  # fmt: skip

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.surface: Surface | None = None
        self.parent: Surface | None = None
        self.sync = True
        self.x = 0
        self.y = 0
        self.placed = (0, 0)
        self.below = False
        self.promoted: Promoted | None = None
        self.cropped = False


class Positioner(ProtocolObject):
    """An xdg_positioner; only the client knows it, its state is copied."""

    __slots__ = (
        "adjustment", "anchor", "gravity", "offset", "parent_configure",
        "parent_size", "reactive", "rect", "size",
    )  # fmt: skip

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.size: tuple[int, int] | None = None
        self.rect: Rect | None = None
        self.anchor = 0
        self.gravity = 0
        self.adjustment = 0
        self.offset = (0, 0)
        self.reactive = False
        self.parent_size: tuple[int, int] | None = None
        self.parent_configure: int | None = None


class WmBase(ProtocolObject):
    """An xdg_wm_base, with the xdg_surfaces made from it and its pings."""

    __slots__ = ("pings", "windows")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.windows: set[XdgSurface] = set()
        self.pings: list[int] = []


class XdgSurface(ProtocolObject):
    """An xdg_surface: its id belongs to our frame's surface at the compositor.

    ``unmapped``: it was mapped, and is not.  ``painted``: pixels of all its layers together, 0 if they were not counted.
    ``last``: the serial of the compositor's last configure, 0 for none.  ``own``: those
    of the filter's own ones, acknowledged or not, each with ``last`` as it was then
    (``screen_states.py``).  ``unmapping``: the compositor has yet to read that it was
    unmapped (``scene/unmapped.py``).
    """

    __slots__ = (
        "acked", "base", "committed", "constructed", "frame", "geometry",
        "last", "mapped", "number", "own", "painted", "role", "serials", "stale", "surface",
        "unmapped", "unmapping",
    )  # fmt: skip

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.base: WmBase | None = None
        self.surface: Surface | None = None
        self.frame: Frame | None = None
        self.role: Toplevel | Popup | None = None
        self.geometry: Rect | None = None
        self.serials: list[int] = []
        self.last = 0
        self.own: dict[int, int] = {}
        self.stale: list[int] = []
        self.acked = False
        self.constructed = False
        self.number = 0
        self.painted = 0
        self.committed = False
        self.mapped = False
        self.unmapped = False
        self.unmapping = False

    def next_own_serial(self) -> int:
        """Return a serial that no configure event of this window has."""
        # The compositor counts upwards from 0, for all clients together.
        serial = next(reversed(self.own), 1 << 32) - 1
        while serial in self.serials or serial in self.stale:
            serial -= 1
        self.own[serial] = self.last
        # guard: our own serials are forgotten
        if len(self.own) > limits.WAYLAND_SERIALS:
            del self.own[next(iter(self.own))]
        return serial

    def compositor_serial(self, serial: int | None) -> int | None:
        """Return the compositor's serial for a client's serial."""
        return serial and (self.own.get(serial, serial) or None)


class Toplevel(ProtocolObject):
    """An xdg_toplevel.

    ``offered``: the window's size in the compositor's last configure, 0 for none;
    ``configured``: the content size in it; ``imposed``: as far as it is
    the compositor's own choice, ``former``: the size up to which it is not
    (``screen_change.py``).  ``told_maximized``: by serial of a configure that maximises
    or tiles, the size of the whole window, ``told_edges``: the frame's, where it is not
    the usual one.  ``titled``: the compositor draws its title bar, ``own_title``: it has
    asked, while it was shown, to draw that itself (``decorations.py``).  ``untold``: names (``window_state.rename``)
    of which the compositor has an earlier one, because they changed too often.  ``due``:
    when it is late to become smaller, ``cap``: the content size that it was cropped to
    then (``resize_timeout.py``).  ``bounds``: the size that the compositor has room for,
    0 where it says none, which counts until the program has answered a configure of the
    window that is shown (``placed``).  ``held``: the serial of a configure event that waits
    for the pace of windows, ``granted``: when its turn came.  ``chosen`` by the user, ``since``: when it got the
    keyboard (``choice.py``).  ``icon`` is its picture (``scene/icon.py``), or empty.

    ``states`` by the compositor's last configure, ``maximized`` as the program asked last;
    the rest is of ``screen_states.py``.  ``asked``: to be maximised or not, as the
    compositor was asked last, None once it has reported on that; ``fence``: whether it
    has read that; ``heard`` a configure since, else the filter answers when it is
    ``unanswered`` then.  ``restore``: maximised besides ``fake_fullscreen``, which the
    compositor shows maximised since ``seen``.  ``whole``: fullscreen was asked of it,
    and ``full`` asks for it once the compositor shows the window.
    ``parent`` is set by the import ``imported``, or by xdg_toplevel; the compositor has it
    if ``parent_sent``, by ``host_import`` (``parents.py``).  ``held_requests`` wait until
    it is mapped (``canonical.py``).
    ``again``, ``awaited``, ``drawn``, ``postponed``, ``restless``: whether the compositor shows it (``shown.py``).
    """

    __slots__ = (
        "again", "app_id", "asked", "awaited", "bounds", "cap", "chosen", "configured", "decoration", "drawn", "due",
        "fake_fullscreen", "fence", "former", "full", "granted", "heard", "held", "held_requests", "host_import", "icon",
        "imported", "imposed", "max_size", "maximized", "min_size", "offered", "own_title", "parent", "parent_sent", "placed", "postponed", "removed_parent", "restless", "restore", "seen", "since", "states",
        "title", "titled", "told_edges", "told_maximized", "unanswered", "untold", "whole", "xdg",
    )  # fmt: skip

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.xdg: XdgSurface | None = None
        self.parent: Toplevel | None = None
        self.imported: ImportedWindow | None = None
        self.parent_sent = False
        self.host_import: ProtocolObject | None = None
        self.removed_parent: RemovedParent | None = None
        self.held_requests: dict[tuple[str, str], Callable[[], None]] = {}
        self.decoration: ProtocolObject | None = None
        self.titled = self.own_title = False
        self.title = b""
        self.untold: set[str] = set()
        self.app_id = b""
        self.icon = b""
        self.fence = 0
        self.forget_states()
        self.told_edges: dict[int, Edges] = {}
        self.told_maximized: dict[int, tuple[int, int]] = {}
        self.due: float | None = None
        self.cap = self.bounds = (0, 0)
        self.placed = False
        self.chosen = False
        self.held = 0
        self.awaited: ProtocolObject | None = None
        self.again: set[XdgSurface] = set()
        self.drawn = False
        self.restless = 0.0
        self.postponed = False
        self.granted: float | None = None
        self.since: float | None = None
        self.offered = self.configured = self.imposed = self.former = (0, 0)
        self.min_size = (0, 0)
        self.max_size = (0, 0)

    def forget_states(self) -> None:
        """Forget what was asked and reported of a window that is not shown any more."""
        self.states: frozenset[int] = frozenset()
        self.maximized = self.whole = False
        self.full: Callable[[], None] | None = None
        self.fake_fullscreen = self.restore = self.seen = False
        self.asked: bool | None = None
        self.heard = False
        self.unanswered: float | None = None

    @property
    def is_fullscreen(self) -> bool:
        """Return whether its program is told that it is fullscreen."""
        return self.fake_fullscreen or FULLSCREEN in self.states

    @property
    def bound(self) -> bool:
        """Return whether the compositor's size is exact, rather than a maximum."""
        known, sized = self.states, all(self.configured)
        filled = MAXIMIZED in known or FULLSCREEN in known
        return sized and (filled or known.issuperset(TILED))

    def forget(self, serials: Sequence[int]) -> None:
        """These configures are acknowledged, or too old to be."""
        for serial in serials:
            self.told_edges.pop(serial, None)
            self.told_maximized.pop(serial, None)


class Granted(NamedTuple):
    """The result of a popup's configure: its content's ``size``, and its ``place``.

    The place is the frame's on its parent's frame.
    """

    size: tuple[int, int]
    place: tuple[int, int]


class Popup(ProtocolObject):
    """An xdg_popup.  ``granted`` by the configure that it acknowledged last.

    The compositor does not report where it puts a larger one, nor when it moves it,
    which is at once (KWin, if the size stays) or with the acknowledgement. ``next``: as
    configured last, and ``told`` by serial, until a commit takes a later one.
    ``adrift``: it is not at its parent any more, so it is shown no more; ``ended``: the
    compositor does not have it any more.  ``ask``
    requests it at the compositor, which does not have it yet (``shown.py``), and ``waits``
    is until when its first commit may wait for that.
    """

    __slots__ = (
        "adrift", "ask", "children", "done", "ended", "grabbing", "granted", "next", "parent", "told",
        "waits", "xdg",
    )  # fmt: skip

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.xdg: XdgSurface | None = None
        self.parent: XdgSurface | None = None
        self.granted = self.next = Granted((1, 1), (0, 0))
        self.told: dict[int, Granted] = {}
        self.adrift = self.ended = False
        self.ask: Callable[..., None] | None = None
        self.waits: float | None = None
        self.grabbing = False
        self.done = False
        self.children = 0

    def places(self) -> Iterable[Granted]:
        """Return the acknowledged placement and all placements configured since."""
        # guard: a popup's next place counts
        return self.granted, *self.told.values()

    def take(self, granted: Granted, left: Iterable[int]) -> None:
        """A commit acknowledges a place; ``left`` are serials not acknowledged yet."""
        kept = set(left)
        self.granted = granted
        self.told = {s: told for s, told in self.told.items() if s in kept}


def window_of(xdg: XdgSurface | None) -> XdgSurface | None:
    """The window that a popup is on; the surface itself if it is not a popup."""
    while xdg is not None and isinstance(xdg.role, Popup):
        xdg = xdg.role.parent
    return xdg


class Constraint(ProtocolObject):
    """A locked or confined pointer.  ``region`` is the applied one.

    ``at_frame`` is our lock at the window's frame beside it, and ``active`` counts how
    many of both the compositor has made active.
    """

    __slots__ = ("active", "at_frame", "oneshot", "region", "surface")

    def __init__(self, interface: str, version: int) -> None:
        super().__init__(interface, version)
        self.surface: Surface | None = None
        self.region: RegionOps | None = None
        self.oneshot = False
        self.at_frame: ProtocolObject | None = None
        self.active = 0
