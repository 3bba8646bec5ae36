"""The sign above all windows of what sandboxes use now, on each screen.

``drawings banner RRGGBB:TEXT…``: a row for each sandbox, in its colour.  It is a surface
above everything by layer-shell, also above fullscreen windows; it takes no input.

The program writes "1" to standard output when the banner is drawn, or "0" if the
compositor has no layer-shell.  It ends when a screen comes or goes, and is started
again then.
"""

from __future__ import annotations

import os
from typing import NoReturn

from PIL import Image, ImageDraw
from typing_extensions import override

from broker.helpers.compositor_socket import adopt_display
from broker.helpers.helper_confinement import confine_helper
from broker.helpers.process.process_name import set_name
from broker.helpers.prompt.fonts import choose_ink, font
from broker.helpers.prompt.screen_frame import OUTPUT, ScreenFrame

_ROW, _SIZE, _PAD = 26, 15, 8
"""Pixels: height of a row, size of its letters, and space around them."""
_RED, _WHITE = (224, 27, 36), (255, 255, 255)
_TOP = 1


def draw_rows(rows: list[tuple[str, str]]) -> Image.Image:
    """Return the picture of the banner: a colour (``#rrggbb``) and a text for each row."""
    letters = font(_SIZE, bold=True)
    widths = [letters.getlength(text) for _, text in rows]
    size = round(max(widths)) + 4 * _PAD + _ROW, _ROW * len(rows)
    image = Image.new("RGB", size, _WHITE)
    draw = ImageDraw.Draw(image)
    for number, (colour, text) in enumerate(rows):
        top = number * _ROW
        draw.rectangle((1, top + 1, size[0] - 2, top + _ROW - 2), colour)
        spot = (_PAD, top + 5, _PAD + _ROW, top + _ROW - 6)
        draw.rectangle(spot, _RED, _WHITE, width=2)
        start = 2 * _PAD + _ROW, top + _ROW // 2
        draw.text(start, text, choose_ink(colour), letters, anchor="lm")
    return image


class UseBanner(ScreenFrame):
    """The banner program's connection to the compositor, and its surfaces."""

    zone = 0
    """Below the panels of the desktop, which it does not hide."""

    def __init__(self, image: Image.Image) -> None:
        super().__init__(0)
        self._image = image

    @property
    def is_possible(self) -> bool:
        """Return whether the compositor shows surfaces above all windows."""
        return "zwlr_layer_shell_v1" in self._globals

    @override
    def _global(self, registry: object, name: int, kind: str, version: int) -> None:
        """Bind a global; end when a screen comes."""
        self._over |= kind == "wl_output" and bool(self._framed)
        super()._global(registry, name, kind, version)

    def show(self) -> bool:
        """Draw the banner on all screens; return if the compositor shows it."""
        for name, screen in self._screens.items():
            self._framed.add(name)
            self._strip(screen, _TOP, *self._image.size)
        return self.await_drawn()

    @override
    def _pixels(self, width: int, height: int) -> bytes:
        """Return the banner in the size that the compositor has chosen."""
        return self._image.crop((0, 0, width, height)).tobytes("raw", "BGRX")


def main(*rows: str) -> NoReturn:
    """Confine the process, draw the banner, and run until the compositor closes it."""
    set_name("vitrail-banner")
    image = draw_rows([(f"#{row[:6]}", row[7:]) for row in rows])
    adopt_display()
    confine_helper()
    banner = UseBanner(image)
    drawn = banner.is_possible and banner.show()
    # guard: a banner that is not drawn does not say so
    if drawn or not banner.is_possible:
        os.write(OUTPUT, b"1" if drawn else b"0")
    if drawn:
        banner.run()
    # pywayland may crash when it frees what a connection has left.
    os._exit(0)
