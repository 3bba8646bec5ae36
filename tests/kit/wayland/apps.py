"""Real applications in bubblewrap, through a real waypipe server and the filter.

``async with boxed(it, "gtk3-demo") as app`` is: the program in a sandbox that
holds none of our files but a socket for streams, waypipe server in there with it,
and our end of its wire outside, with the filter of a stand.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import trio
from PIL import Image

from broker.helpers.process.spawn import Child, spawn
from broker.jail.wayland.model import Popup
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels
from tests.kit.wayland.pixels import Found, frames, mask, outside
from tests.kit.wayland.resizing import kept, picture_name
from tests.kit.wayland.stand import FRAME, Stand

_WAYPIPE = ("waypipe", "--no-gpu", "--compress", "none", "--socket")
TOOLKITS = {
    "QT_QPA_PLATFORM": "wayland",
    "MOZ_ENABLE_WAYLAND": "1",
    "GTK_A11Y": "none",
    "NO_AT_BRIDGE": "1",
    "LIBGL_ALWAYS_SOFTWARE": "1",
}
"""Variables that select Wayland in each toolkit, and avoid waits for a bus or GPU."""
_GUEST = {
    "HOME": "/home/u",
    "XDG_RUNTIME_DIR": "/run/u",
    "LANG": "C.UTF-8",
    "PATH": "/usr/bin:/bin:/usr/games",
    "GDK_BACKEND": "wayland",
    "XDG_SESSION_TYPE": "wayland",
    **TOOLKITS,
}


def box(wire: Path, shared: Path | None, *argv: str) -> list[str]:
    """bubblewrap's words for a program that may use one socket."""
    words = [
        "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv",
        "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc",
        "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
        "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--dir", "/run/u",
        "--dir", "/tmp/.X11-unix", "--tmpfs", "/home", "--dir", "/home/u", "--chmod", "0700", "/run/u",
        "--ro-bind", str(wire), "/run/u/wire",
    ]  # fmt: skip
    if shared is not None:
        words += ["--bind", str(shared), "/shared"]
    return [*words, *argv]


@asynccontextmanager
async def boxed(
    it: Stand,
    *argv: str,
    shared: Path | None = None,
    display: Path | None = None,
    **env: str,
):
    """The program's bubblewrap process; all of it ends with the block.

    With a ``display`` it has that one, of a waypipe server elsewhere, and
    none of its own.
    """
    directory = it.comp.display.parent
    said = (directory / f"said-{len(it.children)}").open("w+b")
    inner = [*_WAYPIPE, "/run/u/wire", "server", "--", *argv]
    if display is not None:
        inner, env["WAYLAND_DISPLAY"] = list(argv), "/run/u/wire"
    words: list[str] = []
    for name, value in {**_GUEST, **env}.items():
        words += ["--setenv", name, value]
    app = spawn(
        [*box(display or it.wire, shared, *words), *inner],
        env={"PATH": os.environ["PATH"]},
        stdout=said.fileno(),
        stderr=said.fileno(),
    )
    it.children.append(app)
    made = Boxed(it, app, said)
    try:
        yield made
    except BaseException:
        with trio.CancelScope(shield=True):
            kept(picture_name("failed"), await pixels(it.comp))
        print(f"{argv[0]} ended with {app.popen.poll()} and said: {made.said()}")
        raise
    finally:
        with trio.CancelScope(shield=True):
            await app.stop()
            said.close()


class Boxed:
    """A running application and its standard output."""

    def __init__(self, it: Stand, child: Child, said) -> None:
        self.it, self.child, self._said = it, child, said

    def said(self) -> str:
        """Its last words."""
        self._said.seek(0)
        return self._said.read()[-3000:].decode(errors="replace")

    async def framed(self, *, least: int = 60, deadline: float = 90) -> Found:
        """Wait until a window is in its frame; the largest one."""

        async def look() -> list[Found]:
            assert self.child.popen.poll() is None, f"it ended: {self.said()}"
            image = await pixels(self.it.comp)
            found = frames(image, FRAME)
            for at in self.it.spots:
                seen = frames(image, FRAME, pointer=at)
                # Ignore the pointer's image, which is a small square itself.
                found += [f for f in seen if min(f.w, f.h) > 64]
            return [f for f in found if f.w > least and f.h > least]

        found = await eventually(look, deadline=deadline)
        return max(found, key=lambda f: f.w * f.h)

    def shown_popups(self) -> list[tuple[int, int, int, int]]:
        """Outer rectangles of all popups that are shown, relative to their window.

        A popup comes after the one that it belongs to.
        """
        places = []
        for core in self.it.sandbox.filters:
            for xdg in core.windows:
                if xdg.mapped and isinstance(xdg.role, Popup) and xdg.frame.outer:
                    box = (*_place_of(xdg.role), *xdg.frame.outer)
                    places.append((_depth(xdg.role), box))
        return [box for _, box in sorted(places)]

    async def popups(self, window: Found, *, deadline: float = 60) -> int:
        """Wait until every popup that is shown has its whole frame on the screen.

        The part of it that is on the screen: weston 10 places popups without
        looking at the screen's edges.  Returns how many there were.
        """

        async def whole() -> int:
            shown = self.shown_popups()
            places = [tuple(round(v * self.it.scale) for v in box) for box in shown]
            here = mask(await pixels(self.it.comp), FRAME)
            good = []
            for n, place in enumerate(places):
                # Accept the part that a submenu covers.
                seen = here.copy()
                for x, y, w, h in places[n + 1 :]:
                    _fill(seen, window.x + x, window.y + y, w, h)
                good.append(_edged(seen, window, place, self.it.scale))
            return len(good) if good and all(good) else 0

        return int(await eventually(whole, deadline=deadline))


def _depth(popup: Popup) -> int:
    parent = popup.parent.role if popup.parent is not None else None
    return 1 + _depth(parent) if isinstance(parent, Popup) else 0


def _fill(here: np.ndarray, x: int, y: int, w: int, h: int) -> None:
    here[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = True


def _place_of(popup: Popup) -> tuple[int, int]:
    x, y = popup.granted.place
    parent = popup.parent.role if popup.parent is not None else None
    if isinstance(parent, Popup):
        px, py = _place_of(parent)
        return x + px, y + py
    return x, y


def _edged(
    here: np.ndarray, window: Found, place: tuple[int, int, int, int], scale: float
) -> bool:
    """Whether a popup's outline has the frame's colour, but for a few covered pixels."""
    x, y, w, h = place
    x, y = x + window.x, y + window.y
    height, width = here.shape
    left, right, top, low = max(0, x), min(width, x + w), max(0, y), min(height, y + h)
    # Fractional scales blend the outermost pixels.
    inset = round(2 * scale) - 1
    columns, rows = (x + inset, x + w - 1 - inset), (y + inset, y + h - 1 - inset)
    sides = [here[top:low, column] for column in columns if 0 <= column < width]
    sides += [here[row, left:right] for row in rows if 0 <= row < height]
    # The pointer, and a menu of this menu, may lie on a side.
    return all(not len(side) or side.mean() > 0.5 for side in sides)


def strangers(
    image: Image.Image,
    empty: Image.Image,
    spots: Sequence[tuple[int, int]],
    *,
    slack: int = 0,
    panel: int = 0,
    known: Sequence[tuple[int, int, int, int]] = (),
) -> tuple[list[Found], int]:
    """Frames, and pixels outside of them that are not the empty desktop's.

    Where the pointer is or has just been (``spots``), its image may lie: that
    much is not looked at.  ``slack`` pixels around a frame may be blended with
    it (fractional scales), and ``panel`` rows at the top change by themselves.
    ``known`` boxes are looked for in vain where others cover their frames.
    """
    found = frames(image, FRAME, least=9)
    for spot in spots:
        found += frames(image, FRAME, pointer=spot)
    found = [f for f in found if min(f.w, f.h) > 64]
    was = np.asarray(empty.convert("RGB"))
    now = np.asarray(image.convert("RGB"))
    red, green, blue = (was[..., n] != now[..., n] for n in range(3))
    changed = red | green | blue
    changed[:panel, :] = False
    for x, y in spots:
        changed[max(0, y - 64) : y + 64, max(0, x - 64) : x + 64] = False
    grown = [
        (f.x - slack, f.y - slack, f.w + 2 * slack, f.h + 2 * slack) for f in found
    ]
    return found, outside(changed, [*grown, *known])
