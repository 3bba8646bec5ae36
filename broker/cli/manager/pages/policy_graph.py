"""The picture of permitted calls: a button for each sandbox, an arrow for each pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.cli.manager.toolkit import Gtk, Pango
from broker.cli.manager.widgets import ink_of, name_control, shown_name, square
from broker.cli.manager.words import tr

YOU: Final = "dom0"
"""The desktop's name in rules."""
NODES: Final = 24
"""Boxes of one picture; of more, those with the most arrows are shown."""
_SIZE: Final = (760, 380)
_BOX: Final = (126, 34)
_HEAD: Final = 9.0
_NEAR: Final = 7.0
"""Pixels from an arrow within which a click is for it."""
_DASHES: Final = (6.0, 4.0)


@dataclass(frozen=True, slots=True)
class GraphFlow:
    """A permitted call of ``brokerctl policy graph --json``."""

    source: str
    target: str
    service: str
    verdict: str
    told: str
    where: str
    unnamed: bool

    @property
    def box(self) -> str:
        """The box that the arrow leads to: a disposable has its record's."""
        return self.target.removeprefix("@dispvm:")


def shown_flows(flows: Iterable[GraphFlow]) -> tuple[list[str], list[GraphFlow]]:
    """Return the boxes and the flows of a picture: all, or the most connected ones."""
    found = list(flows)
    count: dict[str, int] = {}
    for flow in found:
        for name in (flow.source, flow.box):
            count[name] = count.get(name, 0) + 1
    names = sorted(count, key=lambda name: (name != YOU, -count[name], name))[:NODES]
    kept = {*names}
    return sorted(names), [f for f in found if {f.source, f.box} <= kept]


def places(names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the middle of each box: the desktop's in the middle, the others around."""
    width, height = _SIZE
    around = [name for name in names if name != YOU]
    found = {YOU: (width / 2, height / 2)} if YOU in names else {}
    for number, name in enumerate(around):
        angle = 2 * math.pi * number / len(around) - math.pi / 2
        found[name] = (
            width / 2 + (width / 2 - _BOX[0] / 2 - 4) * math.cos(angle),
            height / 2 + (height / 2 - _BOX[1] / 2 - 4) * math.sin(angle),
        )
    return found


Line = tuple[float, float, float, float]


def line_between(begin: tuple[float, float], end: tuple[float, float]) -> Line:
    """Return the line from box to box, a little to the right, so that two ways differ."""
    (x, y), (u, v) = begin, end
    length = math.hypot(u - x, v - y) or 1.0
    dx, dy = (u - x) / length, (v - y) / length
    x, y, u, v = x - 4 * dy, y + 4 * dx, u - 4 * dy, v + 4 * dx
    out = min(
        _BOX[0] / 2 / abs(dx) if dx else math.inf,
        _BOX[1] / 2 / abs(dy) if dy else math.inf,
    )
    out = min(out, length / 2)
    return x + dx * out, y + dy * out, u - dx * out, v - dy * out


def distance(line: Line, x: float, y: float) -> float:
    """Return how far a point is from a line."""
    a, b, c, d = line
    square = (c - a) ** 2 + (d - b) ** 2
    part = 0.0 if not square else ((x - a) * (c - a) + (y - b) * (d - b)) / square
    part = min(1.0, max(0.0, part))
    return math.hypot(x - a - part * (c - a), y - b - part * (d - b))


class PolicyGraph:
    """The picture; ``chosen`` gets a box, or a box and the box that its arrow leads to."""

    def __init__(
        self,
        flows: Sequence[GraphFlow],
        colours: Mapping[str, str],
        chosen: Callable[[str, str], None],
    ) -> None:
        names, self._flows = shown_flows(flows)
        self._places = places(names)
        self._chosen = chosen
        self._lines = {
            (flow.source, flow.box): line_between(
                self._places[flow.source], self._places[flow.box]
            )
            for flow in self._flows
            if flow.source != flow.box
        }
        self._allowed = {
            (flow.source, flow.box) for flow in self._flows if flow.verdict == "allow"
        }
        self._area = Gtk.DrawingArea(content_width=_SIZE[0], content_height=_SIZE[1])
        self._area.set_accessible_role(Gtk.AccessibleRole.PRESENTATION)
        self._area.set_draw_func(self._draw)
        boxes = Gtk.Fixed()
        # Its places are those of the arrows, which are drawn from the left.
        boxes.set_direction(Gtk.TextDirection.LTR)
        for name, (x, y) in self._places.items():
            box = self._box(name, colours.get(name, ""))
            boxes.put(box, x - _BOX[0] / 2, y - _BOX[1] / 2)
        self.count = len(names)
        self.widget = Gtk.Overlay(child=self._area, halign=Gtk.Align.CENTER)
        self.widget.add_overlay(boxes)
        click = Gtk.GestureClick()
        click.connect("released", self._clicked)
        self.widget.add_controller(click)

    def _box(self, name: str, colour: str) -> Any:
        shown = tr("you") if name == YOU else shown_name(name)
        text = Gtk.Label(label=shown, ellipsize=Pango.EllipsizeMode.END, hexpand=True)
        inside = Gtk.Box(spacing=6)
        if colour:
            inside.append(square(colour))
        inside.append(text)
        box = Gtk.Button(child=inside, width_request=_BOX[0], height_request=_BOX[1])
        name_control(box, tr("Calls of {name}", name=shown))
        box.set_tooltip_text(shown)
        box.connect("clicked", lambda _button: self._chosen(name, ""))
        return box

    def _draw(self, area: Any, cairo: Any, _width: int, _height: int) -> None:
        ink = ink_of(area)
        cairo.set_source_rgba(ink.red, ink.green, ink.blue, 0.75)
        cairo.set_line_width(1.6)
        for pair, line in self._lines.items():
            cairo.set_dash([] if pair in self._allowed else _DASHES)
            cairo.move_to(*line[:2])
            cairo.line_to(*line[2:])
            cairo.stroke()
            cairo.set_dash([])
            self._draw_head(cairo, line)

    def _draw_head(self, cairo: Any, line: Line) -> None:
        a, b, x, y = line
        angle = math.atan2(y - b, x - a)
        cairo.move_to(x, y)
        for side in (0.42, -0.42):
            cairo.line_to(
                x - _HEAD * math.cos(angle + side), y - _HEAD * math.sin(angle + side)
            )
        cairo.close_path()
        cairo.fill()

    def _clicked(self, _click: Any, _times: int, x: float, y: float) -> None:
        near = [(distance(line, x, y), pair) for pair, line in self._lines.items()]
        if near and min(near)[0] <= _NEAR:
            self._chosen(*min(near)[1])
