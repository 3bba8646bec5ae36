"""Drawing a dialog into memory.

Text is drawn as it is in the question, where everything of a sandbox has been
escaped and shortened.  Names that do not fit are cut with dots; the request and what is said of
it is drawn smaller.

The prompt agent runs it.
"""

from __future__ import annotations

import functools

from PIL import Image, ImageDraw

from broker.helpers.prompt.description import (
    behind,
    hint,
    kind,
    plain,
    reach,
    target_words,
)
from broker.helpers.prompt.dialog import (
    FRAME,
    LINE,
    PAD,
    ROW,
    TIME_WIDTH,
    WIDTH,
    Dialog,
    DialogRect,
    keep_words,
    text_rows,
)
from broker.helpers.prompt.fonts import Font, choose_ink, font
from broker.helpers.prompt.phrases import machine_words
from broker.helpers.prompt.translation import tr, trn

_PAPER, _INK, _FAINT = (250, 250, 248), (24, 24, 28), (108, 108, 116)
_LINE_COLOUR, _CHOSEN = (204, 204, 208), (222, 235, 250)
_SMALLEST = 6
"""Pixels: of a font, where a row has as many of the widest letters as it may have."""
_ALLOW, _DENY, _INERT = (28, 110, 60), (150, 32, 32), (176, 176, 180)


def fitting(words: str, size: int, width: int, *, bold: bool = False) -> int:
    """Return the largest size of font, up to ``size``, in which a row is not cut."""
    while size > _SMALLEST and font(size, bold=bold).getlength(words) > width:
        size -= 1
    return size


def paint(
    dialog: Dialog, phrase: str, now: float, deadline: float, scale: int
) -> bytes:
    """Return the picture: XRGB8888, ``WIDTH`` by the layout's height, times scale."""
    image = draw(dialog, phrase, now, deadline, scale)
    return image.convert("RGB").tobytes("raw", "BGRX")


_ARROW = ((1, 1), (1, 17), (5, 13), (8, 20), (11, 19), (8, 12), (14, 12))
"""Corners of the pointer's image in points; the hot spot is the tip."""
_ARROW_SIZE = 24


@functools.cache
def arrow(scale: int) -> tuple[int, int, bytes]:
    """Return width, height and picture of the pointer's image: ARGB8888."""
    side = _ARROW_SIZE * scale
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    corners = [(x * scale, y * scale) for x, y in _ARROW]
    ImageDraw.Draw(image).polygon(
        corners, (0, 0, 0, 255), (255, 255, 255, 255), width=scale
    )
    return side, side, image.tobytes("raw", "BGRA")


def draw(
    dialog: Dialog, phrase: str, now: float, deadline: float, scale: int
) -> Image.Image:
    """Draw the dialog into an image and return it."""
    size = (WIDTH * scale, dialog.layout.height * scale)
    brush = _Brush(Image.new("RGB", size, _PAPER), scale)
    armed = bool(dialog.guard.rest(now))
    _head(brush, dialog)
    _text(brush, dialog)
    _preview(brush, dialog)
    _targets(brush, dialog)
    for rect, keep in zip(dialog.layout.keeps, dialog.question.keeps, strict=False):
        brush.choice(rect, keep_words(dialog.question, keep), dialog.keep is keep)
    for rect in dialog.layout.keeps[:1]:
        place = DialogRect(rect.x + rect.width - 130, rect.y, 120, rect.height)
        brush.text(place, tr("keys: Left, Right"), size=13, colour=_FAINT)
    waits, seconds = dialog.hand_waits(now), max(0, round(deadline - now))
    _foot(brush, dialog, phrase, armed=armed, waits=waits, seconds=seconds)
    return brush.image


class _Brush:
    """Draws in the dialog's own coordinates."""

    def __init__(self, image: Image.Image, scale: int) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)
        self._scale = scale

    def box(
        self,
        rect: DialogRect,
        fill: tuple[int, int, int] | str,
        outline: tuple[int, int, int] | None = None,
    ) -> None:
        x, y, width, height = (value * self._scale for value in rect)
        self._draw.rectangle(
            (x, y, x + width - 1, y + height - 1), fill, outline, width=self._scale
        )

    def picture(self, rect: DialogRect, pixels: bytes, colour: str) -> None:
        """Draw a picture in shades of grey, with a line of a colour around it."""
        image = Image.frombytes("L", (rect.width, rect.height), pixels).convert("RGB")
        edge = 3 * self._scale
        x, y, width, height = (value * self._scale for value in rect)
        self._draw.rectangle(
            (x, y, x + width + 2 * edge - 1, y + height + 2 * edge - 1), colour
        )
        self.image.paste(image.resize((width, height)), (x + edge, y + edge))

    def text(
        self,
        rect: DialogRect,
        words: str,
        *,
        size: int = 16,
        bold: bool = False,
        colour: tuple[int, int, int] = _INK,
        middle: bool = False,
    ) -> None:
        """Draw one line in a rectangle, at its left or in its middle."""
        drawn = font(size * self._scale, bold=bold)
        words = self._cut(plain(words), rect.width * self._scale, drawn)
        x, y = rect.x * self._scale, (rect.y + rect.height / 2) * self._scale
        if middle:
            x += rect.width * self._scale // 2
        self._draw.text((x, y), words, colour, drawn, anchor="mm" if middle else "lm")

    def row(
        self,
        rect: DialogRect,
        words: str,
        *,
        size: int,
        bold: bool,
        colour: tuple[int, int, int],
    ) -> None:
        """Draw one line in a rectangle, smaller rather than cut."""
        width = rect.width * self._scale
        size = fitting(plain(words), size * self._scale, width, bold=bold)
        self.text(rect, words, size=size // self._scale, bold=bold, colour=colour)

    def _cut(self, words: str, width: int, font: Font) -> str:
        if self._draw.textlength(words, font) <= width:
            return words
        while words and self._draw.textlength(f"{words}…", font) > width:
            words = words[:-1]
        return f"{words}…"

    def choice(self, rect: DialogRect, words: str, chosen: bool) -> None:  # noqa: FBT001
        """Draw a row that can be chosen, with its mark."""
        inner = DialogRect(rect.x, rect.y + 1, rect.width, rect.height - 2)
        self.box(inner, _CHOSEN if chosen else _PAPER, _LINE_COLOUR)
        x, y = (rect.x + 10) * self._scale, (rect.y + rect.height // 2) * self._scale
        radius = 6 * self._scale
        circle = (x, y - radius, x + 2 * radius, y + radius)
        self._draw.ellipse(circle, _PAPER, _INK, width=self._scale)
        if chosen:
            small = 3 * self._scale
            dot = (x + small, y - small, x + 2 * radius - small, y + small)
            self._draw.ellipse(dot, _INK)
        self.text(DialogRect(rect.x + 34, rect.y, rect.width - 44, rect.height), words)


def _head(brush: _Brush, dialog: Dialog) -> None:
    """Draw the frame in the sandbox's colour, the paper and the title."""
    question, height = dialog.question, dialog.layout.height
    brush.box(DialogRect(0, 0, WIDTH, height), question.colour)
    paper = DialogRect(FRAME, FRAME, WIDTH - 2 * FRAME, height - 2 * FRAME)
    brush.box(paper, _PAPER)
    band = DialogRect(FRAME, FRAME, WIDTH - 2 * FRAME, 72)
    brush.box(band, question.colour)
    ink = choose_ink(question.colour)
    x, width = FRAME + PAD, WIDTH - 2 * (FRAME + PAD)
    brush.text(
        DialogRect(x, FRAME + 8, width, 34),
        machine_words(question.sandbox),
        size=26,
        bold=True,
        colour=ink,
    )
    brush.text(DialogRect(x, FRAME + 42, width, 22), kind(dialog), size=14, colour=ink)


def _text(brush: _Brush, dialog: Dialog) -> None:
    """Draw the question's text."""
    text = dialog.layout.text
    rows = [*text_rows(dialog.question), (reach(dialog), False)]
    step = text.height // len(rows)
    for number, (words, bold) in enumerate(rows):
        row = DialogRect(text.x, text.y + number * step, text.width, step)
        colour = _INK if bold or number == len(rows) - 1 else _FAINT
        brush.row(row, words, size=17 if bold else 15, bold=bold, colour=colour)


def _preview(brush: _Brush, dialog: Dialog) -> None:
    """Draw a page to be printed, inside a line of the sandbox's colour."""
    question, rect = dialog.question, dialog.layout.preview
    if not rect.height:
        return
    name = machine_words(question.sandbox)
    text = tr("The first page, as {name} has drawn it:", name=name)
    caption = DialogRect(rect.x, rect.y, dialog.layout.text.width, LINE)
    brush.row(caption, text, size=13, bold=False, colour=_FAINT)
    # guard: a sandbox's page is framed in the question
    brush.picture(rect._replace(y=rect.y + LINE), question.preview[1], question.colour)


def _targets(brush: _Brush, dialog: Dialog) -> None:
    """Draw the list of targets."""
    area = dialog.layout.targets
    for number, target in enumerate(dialog.rows()):
        row = DialogRect(area.x, area.y + number * ROW, area.width, ROW)
        brush.choice(row, target_words(target), target == dialog.target)
    more = len(dialog.question.targets) - len(dialog.rows())
    if area.height and more:
        place = DialogRect(area.x + area.width - 180, area.y - 26, 180, 20)
        words = trn("{number} more: scroll", "{number} more: scroll", more)
        brush.text(place, words, size=13, colour=_FAINT)


def _foot(
    brush: _Brush,
    dialog: Dialog,
    phrase: str,
    *,
    armed: bool,
    waits: bool,
    seconds: int,
) -> None:
    """Draw the hint, the phrase, the buttons and the time that is left."""
    layout = dialog.layout
    words = hint(dialog, armed=armed, waits=waits)
    if armed and dialog.target and dialog.typed:
        words += "   " + tr("Typed: {text}", text=dialog.typed)
    colour = _INK if dialog.early else _FAINT
    brush.row(layout.hint, words, size=13, bold=False, colour=colour)
    pressable = armed and not waits
    ready = pressable and bool(dialog.target)
    brush.box(layout.deny, _DENY if pressable else _INERT)
    brush.text(layout.deny, tr("Deny"), bold=True, colour=_PAPER, middle=True)
    brush.box(layout.allow, _ALLOW if ready else _INERT)
    brush.text(layout.allow, tr("Allow"), bold=True, colour=_PAPER, middle=True)
    brush.text(layout.behind, behind(dialog), size=13, colour=_INK, middle=True)
    left, width = layout.phrase, TIME_WIDTH
    known = tr("No phrase: brokerctl prompt phrase")
    if phrase:
        known = tr("Your phrase: {phrase}", phrase=phrase)
    place = DialogRect(left.x, left.y, left.width - width, left.height)
    brush.text(place, known, size=15, bold=True)
    height = 16 if dialog.behind else left.height
    time = DialogRect(left.x + left.width - width, left.y, width, height)
    words = tr("denied in {seconds} s", seconds=seconds)
    brush.text(time, words, size=13, colour=_FAINT, middle=True)
