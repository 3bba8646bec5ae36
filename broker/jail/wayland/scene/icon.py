"""A window's icon: a tile with a border in the sandbox's colour, drawn here.

If the compositor takes icons (xdg-toplevel-icon), each window of a sandbox has one of
ours from its first picture on.  An application's own picture lies inside the border, as
its windows lie inside their frames, and is opaque: whatever it shows, the border says
whose it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.core.limits import wayland as limits
from broker.jail.wayland.model import Toplevel
from broker.jail.wayland.protocol import emit
from broker.jail.wayland.scene import label

if TYPE_CHECKING:
    from broker.jail.wayland.state import ClientState

MANAGER = "xdg_toplevel_icon_manager_v1"
ICON = "xdg_toplevel_icon_v1"
SIDE, INNER = 64, 48
"""Pixels: the side of the tile, and that of the picture in it.

An eighth of the tile is border on each side: two pixels of an icon of 16.
"""
_BORDER = (SIDE - INNER) // 2
_PAPER = 0xFAFAFA
_INK = 0x303030
_BAR = 8
_LETTER = 5
"""Pixels that a letter's pixel is wide and high."""
_ARGB = 0
"""The format of which labwc takes icons; all pixels are opaque."""

_create = emit.request(MANAGER, "create_icon")
_set_icon = emit.request(MANAGER, "set_icon")
_add_buffer = emit.request(ICON, "add_buffer")
_destroy = emit.request(ICON, "destroy")


def _pixel(color: int) -> bytes:
    return (0xFF000000 | color).to_bytes(4, "little")


NOTHING = _pixel(_PAPER) * (INNER * INNER)
"""A picture without anything on the paper."""


def tile(color: int, picture: bytes) -> bytes:
    """Draw a picture of INNER by INNER pixels in its border (ARGB8888)."""
    edge = _pixel(color)
    side, rows = edge * _BORDER, edge * (SIDE * _BORDER)
    row = INNER * 4
    inside = [side + picture[at : at + row] + side for at in range(0, INNER * row, row)]
    # guard: an application's icon is in a tile
    return b"".join([rows, *inside, rows])


def initial(name: str, color: int) -> bytes:
    """Draw the icon of a window without one: the first letter of the sandbox's name."""
    glyph = label.GLYPHS.get(name[:1], ())
    paper, ink = _pixel(_PAPER), _pixel(_INK)
    left = (INNER - label.WIDE * _LETTER) // 2
    rest = INNER - left - label.WIDE * _LETTER
    rows = [_pixel(color) * INNER] * _BAR
    for bits in glyph:
        letter = b"".join(
            (ink if bits >> (label.WIDE - 1 - x) & 1 else paper) * _LETTER
            for x in range(label.WIDE)
        )
        rows += [paper * left + letter + paper * rest] * _LETTER
    rows += [paper * INNER] * (INNER - len(rows))
    return b"".join(rows)


def shrunk(row: Callable[[int], bytes], side: int, *, opaque: bool) -> bytes:
    """Scale a square picture of ``side`` pixels (ARGB8888) to INNER, on paper.

    ``row`` returns the bytes of one row.  Each pixel is the mean of four: its cost does
    not depend on the size of what a sandbox sends.
    """
    places = [
        ((4 * at + 1) * side // (4 * INNER), (4 * at + 3) * side // (4 * INNER))
        for at in range(INNER)
    ]
    out = bytearray()
    paper = _PAPER & 255
    for upper, lower in places:
        rows = (row(upper), row(lower))
        for left, right in places:
            taps = [line[x * 4 : x * 4 + 4] for line in rows for x in (left, right)]
            *channels, alpha = map(sum, zip(*taps, strict=True))
            # guard: an icon's picture is opaque
            rest = 0 if opaque else (4 * 255 - alpha) * paper // 255
            out += bytes([*(min(255, (c + rest) // 4) for c in channels), 255])
    return bytes(out)


class Badge:
    """Our icon at the compositor; ``end`` it once a window has it."""

    def __init__(self, core: ClientState, picture: bytes) -> None:
        pixels = tile(core.rules.color, picture)
        paint = core.machine.paint()
        paint.grow(len(pixels))
        paint.write(0, pixels)
        pool, self._buffer = core.own("wl_shm_pool"), core.own("wl_buffer")
        core.up.add(emit.create_pool(core.shm, pool.sid, len(pixels)), [paint.export()])
        paint.close()
        out = core.up.data
        out += emit.create_buffer(
            pool.sid, self._buffer.sid, 0, SIDE, SIDE, SIDE * 4, _ARGB
        )
        out += emit.pool_destroy(pool.sid)
        self.sid = core.own(ICON).sid
        out += _create(core.icons, self.sid)
        out += _add_buffer(self.sid, self._buffer.sid, 1)

    def end(self, core: ClientState) -> None:
        """Windows that have it keep it."""
        core.up.data += _destroy(self.sid)
        core.up.data += emit.buffer_destroy(self._buffer.sid)


def tell(core: ClientState, toplevel: Toplevel) -> None:
    """Send the compositor a window's icon: its own picture, or our badge."""
    if not core.icons:
        return
    if not toplevel.icon:
        if core.badge is None:
            core.badge = Badge(core, initial(core.rules.name, core.rules.color))
        core.up.data += _set_icon(core.icons, toplevel.sid, core.badge.sid)
        return
    core.messages += limits.WAYLAND_POOL_MESSAGES
    made = Badge(core, toplevel.icon)
    core.up.data += _set_icon(core.icons, toplevel.sid, made.sid)
    made.end(core)


def recolour(core: ClientState) -> None:
    """Draw all icons again, as the sandbox has another colour."""
    if core.badge is not None:
        core.badge.end(core)
        core.badge = None
    for xdg in core.windows:
        if isinstance(xdg.role, Toplevel) and xdg.committed:
            tell(core, xdg.role)
