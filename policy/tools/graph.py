"""A picture of who may do what: SVG, without anything from outside.

Sandboxes stand on a circle in the colours of their labels, the person at the
viewer in the middle.  An arrow leads from who asks to whom it reaches: solid
where something is allowed, dashed where everything on it is asked about.  Its
number leads to the list below the circle, which says it in words.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from policy.errors import visible
from policy.rules.world import ADMIN_NAMES, DISPVM_OF, World
from policy.tools.colours import ink
from policy.tools.flows import Flow

PERSON = "dom0"
_NO_LABEL = "#555555"
_NODE = (132.0, 44.0)
_CHAR = 7.2
_LINE = 18.0
_NAME_CHARS = 18
_LETTER = 7.0
"""Width of a letter of the list, a little more than most have."""

_STYLE = """
text { font: 12px 'DejaVu Sans', 'Noto Sans', sans-serif; fill: #1a1a1a }
.name { font-weight: bold; font-size: 13px }
.small { font-size: 10.5px; fill: #444 }
.number { font-size: 10px; font-weight: bold }
.head { font-size: 16px; font-weight: bold }
"""


@dataclass(frozen=True)
class Node:
    """A box: where its middle is, its colour, and what stands in it."""

    name: str
    x: float
    y: float
    colour: str
    kind: str

    @property
    def made(self) -> bool:
        """A sandbox that is made for the call."""
        return self.name.startswith(DISPVM_OF)


@dataclass(frozen=True)
class Arrow:
    """All flows from one box to another, with the arrow's number."""

    number: int
    source: Node
    target: Node
    flows: tuple[Flow, ...]

    @property
    def allowed(self) -> bool:
        """Whether something on it is allowed without a question."""
        return any(flow.verdict == "allow" for flow in self.flows)


def draw(
    flows: Sequence[Flow], world: World, colours: Mapping[str, str], title: str
) -> str:
    """Return the SVG; ``colours`` has ``#rrggbb`` by sandbox."""
    names = list(
        dict.fromkeys(name for flow in flows for name in (flow.source, flow.target))
    )
    circle = [name for name in names if name != PERSON]
    nodes = _placed(_neighbours(circle), world, colours)
    arrows = _arrows(flows, nodes)
    radius = _radius(len(circle))
    width = max(2 * radius[0] + _NODE[0] + 80, 760.0)
    high = 2 * radius[1] + _NODE[1] + 130
    shift = f'<g transform="translate({width / 2:.0f} {high / 2 + 30:.0f})">'
    words = _list(arrows, width)
    body = [
        *(_line(arrow) for arrow in arrows),
        *(_box(node) for node in nodes.values()),
        *_bubbles(arrows),
    ]
    legend = _legend(width)
    full = high + 40 + _LINE * (sum(len(lines) for _, lines in words) + 1)
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
                f'height="{full:.0f}" viewBox="0 0 {width:.0f} {full:.0f}" role="img">'
            ),
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style>",
            _markers(arrows),
            f'<rect width="{width:.0f}" height="{full:.0f}" fill="#ffffff"/>',
            f'<text class="head" x="24" y="34">{_text(title)}</text>',
            *legend,
            shift,
            *body,
            "</g>",
            *_written(words, high + 30),
            "</svg>",
            "",
        ]
    )


def _text(text: str) -> str:
    return escape(visible(text))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# -- where the boxes stand ----------------------------------------------------------


def _radius(number: int) -> tuple[float, float]:
    """An ellipse on which so many boxes do not touch."""
    around = max(number, 3) * (_NODE[0] + 40)
    wide = max(230.0, around / math.tau)
    return wide * 1.15, wide * 0.85


def _neighbours(names: Sequence[str]) -> list[str]:
    """In order, with the disposables of a sandbox beside it."""

    def place(name: str) -> tuple[str, bool]:
        return name.removeprefix(DISPVM_OF), name.startswith(DISPVM_OF)

    return sorted(names, key=place)


def _placed(
    names: Sequence[str], world: World, colours: Mapping[str, str]
) -> dict[str, Node]:
    wide, high = _radius(len(names))
    nodes = {PERSON: Node(PERSON, 0.0, 0.0, "#1a1a1a", "at the viewer")}
    for number, name in enumerate(names):
        angle = math.tau * number / max(len(names), 1) - math.tau / 4
        of = name.removeprefix(DISPVM_OF)
        domain = world.domains.get(of)
        kind = domain.type if domain is not None else "unknown"
        nodes[name] = Node(
            name,
            wide * math.cos(angle),
            high * math.sin(angle),
            colours.get(of, _NO_LABEL),
            "made for the call" if name != of else kind,
        )
    return nodes


def _box(node: Node) -> str:
    wide, high = _NODE
    x, y = node.x - wide / 2, node.y - high / 2
    dash = ' stroke-dasharray="5 3"' if node.made else ""
    name = "you" if node.name == PERSON else node.name.removeprefix(DISPVM_OF)
    shown = _text(_short(name, _NAME_CHARS))
    return (
        f'<g><title>{_text(node.name)}</title><rect x="{x:.1f}" y="{y:.1f}" '
        f'width="{wide}" height="{high}" rx="6" fill="#ffffff" '
        f'stroke="{node.colour}" stroke-width="5"{dash}/>'
        f'<text class="name" x="{node.x:.1f}" y="{node.y - 1:.1f}" '
        f'text-anchor="middle">{shown}</text>'
        f'<text class="small" x="{node.x:.1f}" y="{node.y + 14:.1f}" '
        f'text-anchor="middle">{_text(_short(node.kind, 24))}</text></g>'
    )


# -- arrows ----------------------------------------------------------------------------


def _arrows(flows: Iterable[Flow], nodes: Mapping[str, Node]) -> list[Arrow]:
    by: dict[tuple[str, str], list[Flow]] = {}
    for flow in flows:
        by.setdefault((flow.source, flow.target), []).append(flow)
    return [
        Arrow(number, nodes[source], nodes[target], tuple(found))
        for number, ((source, target), found) in enumerate(by.items(), 1)
    ]


_INWARDS = 0.8
Point = tuple[float, float]


def _curve(arrow: Arrow) -> tuple[Point, Point, Point]:
    """Begin, control point and end: bent to the right of its direction.

    So the arrow back takes the other side.
    """
    a, b = arrow.source, arrow.target
    dx, dy = b.x - a.x, b.y - a.y
    middle = (0.0, 0.0)
    for bend in (0.16, 0.32, 0.48, 0.64):
        # Drawn to the middle, so that it does not pass behind a neighbour.
        x, y = (a.x + b.x) / 2 * _INWARDS, (a.y + b.y) / 2 * _INWARDS
        middle = (x - dy * bend, y + dx * bend)
        half = ((a.x + b.x) / 4 + middle[0] / 2, (a.y + b.y) / 4 + middle[1] / 2)
        # Not behind the box in the middle, where it would be lost.
        clear = abs(half[0]) > _NODE[0] / 2 + 12 or abs(half[1]) > _NODE[1] / 2 + 16
        if clear or PERSON in {a.name, b.name}:
            break
    return _edge(a, middle, 3.0), middle, _edge(b, middle, 9.0)


def _edge(node: Node, towards: Point, gap: float) -> Point:
    """The point of a box's edge on the way to another point."""
    dx, dy = towards[0] - node.x, towards[1] - node.y
    wide, high = _NODE[0] / 2 + gap, _NODE[1] / 2 + gap
    scale = min(wide / abs(dx) if dx else math.inf, high / abs(dy) if dy else math.inf)
    scale = min(scale, 1.0)
    return node.x + dx * scale, node.y + dy * scale


def _line(arrow: Arrow) -> str:
    begin, middle, end = _curve(arrow)
    dash = "" if arrow.allowed else ' stroke-dasharray="7 5"'
    colour = arrow.source.colour
    return (
        f'<path d="M {begin[0]:.1f} {begin[1]:.1f} Q {middle[0]:.1f} {middle[1]:.1f} '
        f'{end[0]:.1f} {end[1]:.1f}" fill="none" stroke="{colour}" '
        f'stroke-width="2.2"{dash} marker-end="url(#{_marker(colour)})"/>'
    )


_ALONG = (0.36, 0.28, 0.44, 0.52, 0.2, 0.6, 0.68)
"""Where a number may stand on its arrow: a little nearer to where it begins."""


def _bubbles(arrows: Iterable[Arrow]) -> Iterator[str]:
    """The numbers, none upon another where there is room."""
    taken: list[Point] = []
    for arrow in arrows:
        places = [_on(_curve(arrow), t) for t in _ALONG]
        free = [p for p in places if all(math.dist(p, other) > 20 for other in taken)]
        at = (free or places)[0]
        taken.append(at)
        yield _bubble(arrow, *at)


def _on(curve: tuple[Point, Point, Point], t: float) -> Point:
    begin, middle, end = curve
    a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t * t
    return (
        a * begin[0] + b * middle[0] + c * end[0],
        a * begin[1] + b * middle[1] + c * end[1],
    )


def _bubble(arrow: Arrow, x: float, y: float) -> str:
    words = "; ".join(_said(arrow.flows))
    colour = arrow.source.colour
    return (
        f"<g><title>{_text(words)}</title>"
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9.5" fill="{colour}" '
        'stroke="#ffffff" stroke-width="1.5"/>'
        f'<text class="number" x="{x:.1f}" y="{y + 3.6:.1f}" text-anchor="middle" '
        f'style="fill:{ink(colour)}">{arrow.number}</text></g>'
    )


def _marker(colour: str) -> str:
    return "end-" + colour.removeprefix("#")


def _markers(arrows: Iterable[Arrow]) -> str:
    colours = sorted({arrow.source.colour for arrow in arrows})
    made = [
        f'<marker id="{_marker(colour)}" viewBox="0 0 10 10" refX="8" refY="5" '
        'markerWidth="8" markerHeight="8" orient="auto-start-reverse" '
        f'markerUnits="userSpaceOnUse"><path d="M 0 0 L 10 5 L 0 10 z" '
        f'fill="{colour}"/></marker>'
        for colour in colours
    ]
    return f"<defs>{''.join(made)}</defs>"


# -- words ------------------------------------------------------------------------------


def _said(flows: Iterable[Flow]) -> list[str]:
    """What an arrow stands for, each service and verdict once."""
    by: dict[tuple[str, str, bool], list[str]] = {}
    for flow in flows:
        by.setdefault((flow.verdict, flow.service, flow.unnamed), []).append(flow.told)
    made = []
    for (verdict, service, unnamed), told in by.items():
        more = [" or ".join(told)] if "" not in told else []
        more += ["when it names no target"] if unnamed else []
        extra = f" ({', '.join(more)})" if more else ""
        made.append(f"{verdict} {service.removeprefix('vitrail.')}{extra}")
    return made


def _list(arrows: Iterable[Arrow], width: float) -> list[tuple[Arrow, list[str]]]:
    letters = int((width - 80) / _LETTER)
    return [(arrow, textwrap.wrap(_sentence(arrow), letters)) for arrow in arrows]


def _sentence(arrow: Arrow) -> str:
    names = f"{_called(arrow.source.name)} → {_called(arrow.target.name)}"
    return f"{names}: {', '.join(_said(arrow.flows))}"


def _called(name: str) -> str:
    if name in ADMIN_NAMES:
        return "you"
    of = name.removeprefix(DISPVM_OF)
    return of if of == name else f"a new {of}"


def _written(words: Sequence[tuple[Arrow, list[str]]], top: float) -> list[str]:
    made, y = [], top
    for arrow, lines in words:
        colour = arrow.source.colour
        y += _LINE
        made.append(
            f'<circle cx="36" cy="{y - 4:.1f}" r="8.5" fill="{colour}"/>'
            f'<text class="number" x="36" y="{y - 0.4:.1f}" text-anchor="middle" '
            f'style="fill:{ink(colour)}">{arrow.number}</text>'
            f'<text x="54" y="{y:.1f}">{_text(lines[0])}</text>'
        )
        for line in lines[1:]:
            y += _LINE
            made.append(f'<text x="66" y="{y:.1f}">{_text(line)}</text>')
    return made


def _legend(width: float) -> list[str]:
    x = width - 250
    line = f'x1="{x:.0f}" x2="{x + 44:.0f}" stroke="#1a1a1a" stroke-width="2.2"'
    return [
        f'<line {line} y1="26" y2="26"/>',
        f'<text class="small" x="{x + 54:.0f}" y="30">something is allowed</text>',
        f'<line {line} y1="44" y2="44" stroke-dasharray="7 5"/>',
        f'<text class="small" x="{x + 54:.0f}" y="48">all of it is asked about</text>',
    ]
