"""A window's frame: our surfaces around and below a client's surface.

The root surface has the window's role and is exactly as large as the frame.
The lowest surface is its opaque picture in the sandbox's colour, on it
the client's surface as a subsurface, cropped to the content rectangle, and
above that four strips.  All of them are synchronised subsurfaces, so a commit
of the root shows frame and content together or not at all.  Only a picture that
changes nothing of the frame may come alone (``commit_content``).

The root accepts input everywhere: what the client's surface refuses ends
there, and never reaches a surface below the window (design 7).  Strips have
real-size buffers: a pixel scaled to a strip ends some pixels short on
renderers with 16.16 arithmetic (border.md 5.10).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from broker.jail.wayland.input_model import OwnSurface
from broker.jail.wayland.model import Surface
from broker.jail.wayland.protocol import emit, signatures
from broker.jail.wayland.scene import label

if TYPE_CHECKING:
    from broker.jail.wayland.ports import Paint
    from broker.jail.wayland.protocol.objects import ProtocolObject
    from broker.jail.wayland.state import ClientState

_TILE = 64
"""Side of the picture below a window.  Scaled to 4096 px, 16.16 arithmetic
misses by half a pixel, which the strips cover."""
_POOL = 1 << 17
"""Bytes of the first pool: strips of 4 px fit, up to 7,000 px long."""
_XRGB, _ARGB = 1, 0
_limit_lock = emit.request("zwp_locked_pointer_v1", "set_region")


_PLACE, _ATTACH, _DAMAGE, _COMMIT = _PARTS = (
    signatures.request("wl_subsurface", "set_position"),
    signatures.request("wl_surface", "attach"),
    signatures.request("wl_surface", "damage_buffer"),
    signatures.request("wl_surface", "commit"),
)
_STRIP = struct.Struct("=" + "".join(m.layout for m in _PARTS))
_PLACE_HEAD, _ATTACH_HEAD = _PLACE.head, _ATTACH.head
_DAMAGE_HEAD, _COMMIT_HEAD = _DAMAGE.head, _COMMIT.head


def _strip(sub: int, sid: int, buffer: int, at: tuple[int, int, int, int]) -> bytes:
    """Encode a strip's place, picture and commit in one go."""
    x, y, w, h = at
    return _STRIP.pack(
        *(sub, *_PLACE_HEAD, x, y),
        *(sid, *_ATTACH_HEAD, buffer, 0, 0),
        *(sid, *_DAMAGE_HEAD, 0, 0, w, h),
        *(sid, *_COMMIT_HEAD),
    )


class Edges(NamedTuple):
    """Widths of the four strips, logical pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def wide(self) -> int:
        """Pixels that the frame adds to a width."""
        return self.left + self.right

    @property
    def high(self) -> int:
        """Pixels that the frame adds to a height."""
        return self.top + self.bottom


NO_EDGES = Edges(0, 0, 0, 0)
"""Around a window that is really fullscreen."""


class _Lent:
    """A buffer and how many strips show it."""

    __slots__ = ("key", "sid", "users")

    def __init__(self, key: tuple[int, int, int], sid: int) -> None:
        self.key = key
        self.sid = sid
        self.users = 0


class Palette:
    """Buffers in the frame's colour, shared by all frames of a connection.

    All strips show the same memory, so a pool as large as the longest strip
    is enough.  The first tile is transparent, colour begins after it.
    """

    def __init__(self, core: ClientState, color: int) -> None:
        self._core = core
        self.color = color
        self._paint: Paint | None = None
        self._pool = 0
        self._size = 0
        self._buffers: dict[tuple[int, int, int], _Lent] = {}
        self._by_sid: dict[int, _Lent] = {}

    def take(self, width: int, height: int) -> int:
        """Return a buffer's id; give it back with ``drop``."""
        return self._take(width, height, _XRGB)

    def take_clear(self) -> int:
        """A transparent tile."""
        return self._take(_TILE, _TILE, _ARGB)

    def take_tile(self) -> int:
        """A tile in the colour."""
        return self._take(_TILE, _TILE, _XRGB)

    def _take(self, width: int, height: int, form: int) -> int:
        """Return a buffer of one colour's pixels, shared by all frames."""
        key = (width, height, form)
        entry = self._buffers.get(key)
        if entry is None:
            start = 0 if form == _ARGB else _TILE * _TILE * 4
            self._reach(start + width * height * 4)
            sid = self._core.own("wl_buffer").sid
            self._core.up.data += emit.create_buffer(
                self._pool, sid, start, width, height, width * 4, form
            )
            entry = self._buffers[key] = self._by_sid[sid] = _Lent(key, sid)
        entry.users += 1
        return entry.sid

    def drop(self, sid: int) -> None:
        """Give a buffer back; the last user destroys it."""
        entry = self._by_sid[sid]
        entry.users -= 1
        if not entry.users:
            del self._by_sid[sid]
            if self._buffers.get(entry.key) is entry:  # else of a former colour
                del self._buffers[entry.key]
            self._core.up.data += emit.buffer_destroy(sid)

    def change_color(self, color: int) -> None:
        """Make buffers of another colour from now on.

        Those that are shown keep their memory until they are dropped.
        """
        self.color = color
        if self._pool:
            self._core.up.data += emit.pool_destroy(self._pool)
        self._pool = self._size = 0
        self._buffers.clear()
        self.close()

    def _reach(self, size: int) -> None:
        """Grow the palette's pool to a size."""
        if size <= self._size:
            return
        # Grown in powers of two: a window being resized asks at each step.
        new = max(_POOL, 1 << (size - 1).bit_length())
        if self._paint is None:
            self._paint = self._core.machine.paint()
        self._paint.grow(new)
        first = max(self._size, _TILE * _TILE * 4)
        pixel = (0xFF000000 | self.color).to_bytes(4, "little")
        self._paint.write(first, pixel * ((new - first) // 4))
        # A larger pool beside the former one, never wl_shm_pool.resize: that may move
        # the mapping, and weston 10's pixman renderer keeps reading where a picture
        # was when it was attached.  Buffers keep their own pool's mapping alive.
        former, self._pool = self._pool, self._core.own("wl_shm_pool").sid
        message = emit.create_pool(self._core.shm, self._pool, new)
        self._core.up.add(message, [self._paint.export()])
        if former:
            self._core.up.data += emit.pool_destroy(former)
        self._size = new

    def close(self) -> None:
        """Give the file up; the compositor has a mapping itself."""
        if self._paint is not None:
            self._paint.close()
            self._paint = None


class LabelPicture:
    """What an upper edge shows, drawn once for all frames of a connection."""

    def __init__(self, core: ClientState, height: int, *, with_name: bool) -> None:
        rules, parts = core.rules, []
        # guard: the frame shows that its sandbox uses the microphone
        if rules.in_use:
            parts.append(label.draw_spot(height, rules.color))
        if with_name and rules.strip and height == rules.top:
            parts.append(label.draw_strip(rules.strip, height, rules.color))
        elif with_name:
            parts.append(label.draw(rules.strip_words, height, rules.color))
        self.width, pixels = label.join(parts, height)
        paint = core.machine.paint()
        paint.grow(len(pixels))
        paint.write(0, pixels)
        pool = core.own("wl_shm_pool").sid
        core.up.add(emit.create_pool(core.shm, pool, len(pixels)), [paint.export()])
        paint.close()
        self.buffer = core.own("wl_buffer").sid
        core.up.data += emit.create_buffer(
            pool, self.buffer, 0, self.width, height, self.width * 4, _XRGB
        )
        core.up.data += emit.pool_destroy(pool)


class Frame:
    """Our surfaces around one client surface."""

    def __init__(
        self, core: ClientState, surface: Surface, edges: Edges | None = None
    ) -> None:
        self._core = core
        self.surface = surface
        self._shift = (0, 0)
        self.root = core.own_surface(alias=surface)
        self.edges = edges or core.edges
        self.outer: tuple[int, int] | None = None
        self._origin: tuple[int, int] | None = None
        self._viewport = core.own("wp_viewport").sid
        self._sub = core.own("wl_subsurface").sid
        self._strips: list[tuple[OwnSurface, int]] = []
        self._used: list[int] = []
        self._former: list[int] = []
        self._backing = 0
        self._colors = (core.palette.color,) * 2
        """Of the strips and of the backing."""
        self.maximized: tuple[int, int] | None = None
        """The maximised or tiled size, by the last configure acknowledged."""
        self._answers = False
        self._renamed = False
        """Its strip has other words than those that are drawn."""
        self.lock: ProtocolObject | None = None
        """Our locked pointer at the root (``handlers/constraints.py``)."""
        self.fifo: ProtocolObject | None = None
        self.waits = 0
        """Pictures that may wait at the compositor (``fifo.py``)."""
        self.fills = False
        """The application asked for the whole screen: its frame has that size, also
        around smaller content."""
        out = core.up.data
        out += emit.get_viewport(core.viewporter, self._viewport, self.root.sid)
        out += emit.get_subsurface(
            core.subcompositor, self._sub, surface.sid, self.root.sid
        )
        # The label is the last, so it lies above the upper strip.
        # guard: strips on top
        for _ in range(5 if core.labelled else 4):
            self._add_strip()

    def _add_strip(self) -> None:
        """Add a surface without input above all others of the frame."""
        core, out = self._core, self._core.up.data
        strip = core.own_surface(alias=None)
        sub = core.own("wl_subsurface").sid
        out += emit.get_subsurface(core.subcompositor, sub, strip.sid, self.root.sid)
        out += emit.set_input_region(strip.sid, core.empty_region())
        self._strips.append((strip, sub))

    def show(self, width: int, height: int, xdg_sid: int) -> None:
        """Fit the frame around content of this size; the caller commits.

        ``xdg_sid`` is the window's xdg_surface, 0 for a drag icon.
        """
        outer = (width + self.edges.wide, height + self.edges.high)
        if self.fills and self.maximized is not None:
            # weston 10 compares a maximised window's size with each picture that
            # comes, and ends an application whose window is not that large.
            w, h = self.maximized
            outer = (max(w, outer[0]), max(h, outer[1]))
        out = self._core.up.data
        strips, backing = self._colors
        color = self._core.palette.color
        changed = outer != self.outer or strips != color or self._renamed
        self._renamed = False
        # guard: faked fullscreen may be smaller
        pictured = self.maximized in {None, outer}
        former = 0
        if not self._backing or (backing != color and pictured):
            former, backing = self._backing, color
            self._backing = self._tile()
            self._attach_backing()
        elif self._shift != (0, 0):
            self._attach_backing()
        elif (changed or self._answers) and pictured:
            # weston 10 looks at size and state only with a picture, and a window that
            # is tiled or whose program has not answered yet may well be smaller.
            self._answers = False
            out += emit.attach(self.root.sid, self._backing, 0, 0)
        self._colors = (color, backing)
        if changed:
            self.outer = outer
            out += emit.set_destination(self._viewport, *outer)
            if xdg_sid:
                out += emit.set_window_geometry(xdg_sid, 0, 0, *outer)
            self._draw_strips(*outer)
            if self.lock is not None:
                with self.content_region() as region:
                    out += _limit_lock(self.lock.sid, region)
        if former:
            self._former.append(former)

    def _tile(self) -> int:
        palette = self._core.palette
        clear = self._core.rules.translucent
        return palette.take_clear() if clear else palette.take_tile()

    def answer(self, maximized: tuple[int, int] | None, *, fills: bool = False) -> None:
        """Acknowledge a configure with the next commit; ``maximized``: to this size.

        ``fills``: see there.
        """
        self.maximized = maximized
        self.fills = fills
        self._answers = True

    def _attach_backing(self) -> None:
        out = self._core.up.data
        out += emit.attach(self.root.sid, self._backing, *self._shift)
        out += emit.damage_buffer(self.root.sid, 0, 0, _TILE, _TILE)
        self._shift = (0, 0)

    def shift(self, dx: int, dy: int) -> None:
        """Move a drag icon relative to the pointer, with the next ``show``."""
        self._shift = (self._shift[0] + dx, self._shift[1] + dy)

    def _draw_strips(self, width: int, height: int) -> None:
        """Draw the frame's strips in the size of its window."""
        palette = self._core.palette
        out = self._core.up.data
        # The buffers shown until now go when the next ones have come:
        # compositors lose the picture of a buffer destroyed while attached.
        for sid in self._former:
            palette.drop(sid)
        self._former, self._used = self._used, []
        left, top, right, bottom = self.edges
        inner = height - top - bottom
        places = (
            (0, 0, width, top),
            (0, height - bottom, width, bottom),
            (0, top, left, inner),
            (width - right, top, right, inner),
        )
        self._draw_label(width)
        for (strip, sub), (x, y, w, h) in zip(self._strips[:4], places, strict=True):
            if w > 0 and h > 0:
                buffer = palette.take(w, h)
                self._used.append(buffer)
                out += _strip(sub, strip.sid, buffer, (x, y, w, h))
            else:
                out += emit.attach(strip.sid, 0, 0, 0)
                out += emit.commit(strip.sid)

    def _draw_label(self, width: int) -> None:
        """Draw name and use at the left of the upper strip, if there is room for them."""
        room = width - self.edges.left - self.edges.right
        pictures = self._core.label_pictures(self.edges.top)
        buffer = next((p.buffer for p in pictures if p.width <= room), 0)
        if len(self._strips) < 5:
            if not buffer:
                return
            self._add_strip()
        (surface, sub), out = self._strips[4], self._core.up.data
        out += emit.attach(surface.sid, buffer, 0, 0)
        out += emit.damage_buffer(surface.sid, 0, 0, width, self.edges.top)
        out += emit.set_position(sub, self.edges.left, 0)
        out += emit.commit(surface.sid)

    def place(self, x: int, y: int) -> None:
        """Put the client's surface there, in content coordinates."""
        origin = (self.edges.left + x, self.edges.top + y)
        if self._sub and origin != self._origin:
            self._origin = origin
            self._core.up.data += emit.set_position(self._sub, *origin)

    @contextmanager
    def content_region(self) -> Iterator[int]:
        """Yield a wl_region of the content on the frame's root, for one request."""
        core, out = self._core, self._core.up.data
        region = core.own("wl_region").sid
        out += emit.create_region(core.compositor, region)
        x, y, right, bottom = (n >> 8 for n in self._content())
        out += emit.region_add(region, x, y, right - x, bottom - y)
        yield region
        out += emit.region_destroy(region)

    def _content(self) -> tuple[int, int, int, int]:
        """Return the content's rectangle on the frame's root, in 24.8."""
        wide, high = self.outer or (self.edges.wide + 1, self.edges.high + 1)
        return (
            self.edges.left << 8,
            self.edges.top << 8,
            (wide - self.edges.right) << 8,
            (high - self.edges.bottom) << 8,
        )

    def holds(self, x: int, y: int) -> bool:
        """Return whether a point of the root is in the content, not on a strip."""
        left, top, right, bottom = self._content()
        return left <= x < right and top <= y < bottom

    def inside(self, x: int, y: int) -> tuple[int, int]:
        """Convert a point of the root to the client's surface, in 24.8."""
        left, top, right, bottom = self._content()
        x = max(left, min(x, right - 1))
        y = max(top, min(y, bottom - 1))
        from_x, from_y = self._origin or (self.edges.left, self.edges.top)
        return x - (from_x << 8), y - (from_y << 8)

    def rename(self) -> None:
        """Draw the strip's words again with the next ``show``."""
        self._renamed = True

    def change_edges(self, edges: Edges) -> None:
        """Change the widths of the strips from the next ``show`` on."""
        if edges != self.edges:
            self.edges = edges
            self.outer = None

    def commit(self) -> None:
        """Commit the root: everything sent before appears at once."""
        self._core.up.data += emit.commit(self.root.sid)

    def commit_content(self) -> None:
        """Commit the client's surface alone; its place and size have not changed."""
        out = self._core.up.data
        out += emit.set_desync(self._sub)
        out += emit.commit(self.surface.sid)
        out += emit.set_sync(self._sub)

    def hide(self) -> None:
        """Remove the root's picture, which unmaps the window; commits."""
        self._core.up.data += emit.attach(self.root.sid, 0, 0, 0)
        self.commit()
        # Unmapping made the compositor forget the geometry and the state.
        self.outer = self.maximized = None
        if self._backing:
            self._core.palette.drop(self._backing)
            self._backing = 0

    @property
    def has_surface(self) -> bool:
        """Return whether the client's surface has its place in the frame."""
        return bool(self._sub)

    def release_surface(self) -> None:
        """The client's surface is about to go: end its place in the frame."""
        if self._sub:
            self._core.up.data += emit.subsurface_destroy(self._sub)
            self._sub = 0

    def destroy(self) -> None:
        """Destroy all of the frame's objects, after the window's xdg_surface."""
        out = self._core.up.data
        if self.fifo is not None:
            self._core.end_own(self.fifo)
        for strip, sub in self._strips:
            out += emit.subsurface_destroy(sub)
            out += emit.surface_destroy(strip.sid)
        self.release_surface()
        out += emit.viewport_destroy(self._viewport)
        out += emit.surface_destroy(self.root.sid)
        self.root.alias = None
        palette = self._core.palette
        for sid in [*self._former, *self._used, self._backing]:
            if sid:
                palette.drop(sid)
        self._former, self._used, self._backing = [], [], 0
