"""A picture of who may do what, as a graph in the language of Graphviz.

Sandboxes are boxes in the colours of their labels.  An arrow leads from the sandbox
that asks to its target: solid where something is allowed, dashed where
everything on it is asked about.  Its number leads to the list below the picture,
which has one sentence for each arrow.

The language: https://graphviz.org/doc/info/lang.html.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from policy.errors import visible
from policy.names import ADMIN_NAMES
from policy.rules.world import DISPVM_OF, World
from policy.tools.colours import ink
from policy.tools.flows import Flow

PERSON = "dom0"
_NO_LABEL = "#555555"
_INK = "#1a1a1a"
_NAME_CHARACTERS = 24
_LIST_CHARACTERS = 110
"""Width of the list, in characters."""

_LEGEND = "Solid: some calls are allowed.  Dashed: the user is asked about all calls."


@dataclass(frozen=True)
class Arrow:
    """All flows from one box to another, with the arrow's number."""

    number: int
    source: str
    target: str
    flows: tuple[Flow, ...]

    @property
    def allowed(self) -> bool:
        """Return whether something on it is allowed without a question."""
        return any(flow.verdict == "allow" for flow in self.flows)


def graph_text(
    flows: Sequence[Flow], world: World, colours: Mapping[str, str], title: str
) -> str:
    """Return the graph; ``colours`` has ``#rrggbb`` by sandbox."""
    names = dict.fromkeys(name for flow in flows for name in (flow.source, flow.target))
    # Names come from files and hold anything: the graph's own are numbers.
    numbers = {name: number for number, name in enumerate(_sorted_names(names))}
    arrows = _arrows(flows)
    return "\n".join(
        [
            "digraph policy {",
            f"  graph [{_attributes(label=title, **_GRAPH)}];",
            f"  node [{_attributes(**_NODE)}];",
            f"  edge [{_attributes(**_EDGE)}];",
            *(_box(numbers[name], name, world, colours) for name in numbers),
            *(_line(arrow, numbers, colours) for arrow in arrows),
            f'  {{ rank=sink; list [shape=plaintext, label="{_list(arrows)}"]; }}',
            "}",
            "",
        ]
    )


_FONT = {"fontname": "sans-serif", "fontcolor": _INK}
_GRAPH = {
    **_FONT,
    "charset": "UTF-8",
    "bgcolor": "#ffffff",
    "labelloc": "t",
    "labeljust": "l",
    "fontsize": "16",
    "nodesep": "0.5",
    "ranksep": "0.9",
}
_NODE = {
    **_FONT,
    "shape": "box",
    "style": "rounded",
    "penwidth": "4",
    "fontsize": "12",
    "width": "1.8",
}
_EDGE = {**_FONT, "penwidth": "2", "fontsize": "10"}


def _attributes(**values: str) -> str:
    return ", ".join(f'{name}="{_quoted(value)}"' for name, value in values.items())


def _quoted(untrusted_text: str) -> str:
    r"""Return a text as the inside of a quoted string that is shown as it is.

    In a label a backslash begins an escape (``\N`` is the node's name), and ``&`` an
    entity of HTML.
    """
    text = visible(untrusted_text).replace("&", "&amp;")
    # guard: a name ends no string of a graph
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _sorted_names(names: Iterable[str]) -> list[str]:
    """Sort names, each sandbox followed by its disposables."""
    return sorted(
        names,
        key=lambda name: (name.removeprefix(DISPVM_OF), name.startswith(DISPVM_OF)),
    )


def _box(number: int, name: str, world: World, colours: Mapping[str, str]) -> str:
    """Return the Graphviz line of a sandbox's box."""
    of = name.removeprefix(DISPVM_OF)
    disposable = of != name
    domain = world.domains.get(of)
    kind = domain.type if domain is not None else "unknown"
    if name == PERSON:
        shown, kind = "you", "at the viewer"
    else:
        shown = of if len(of) <= _NAME_CHARACTERS else f"{of[: _NAME_CHARACTERS - 1]}…"
    if disposable:
        kind = "created for the call"
    more = _attributes(
        color=_colour(name, colours),
        tooltip=name,
        style="rounded,dashed" if disposable else "rounded",
    )
    return f'  n{number} [label="{_quoted(shown)}\\n{_quoted(kind)}", {more}];'


def _colour(name: str, colours: Mapping[str, str]) -> str:
    if name == PERSON:
        return _INK
    return colours.get(name.removeprefix(DISPVM_OF), _NO_LABEL)


# -- arrows ----------------------------------------------------------------------------


def _arrows(flows: Iterable[Flow]) -> list[Arrow]:
    """Return an arrow for each pair of sandboxes, with the flows between them."""
    by: dict[tuple[str, str], list[Flow]] = {}
    for flow in flows:
        by.setdefault((flow.source, flow.target), []).append(flow)
    return [
        Arrow(number, source, target, tuple(found))
        for number, ((source, target), found) in enumerate(by.items(), 1)
    ]


def _line(arrow: Arrow, numbers: Mapping[str, int], colours: Mapping[str, str]) -> str:
    """Return the Graphviz line of an arrow."""
    colour = _colour(arrow.source, colours)
    more = _attributes(
        color=colour,
        style="solid" if arrow.allowed else "dashed",
        tooltip=_sentence(arrow),
        labeltooltip=_sentence(arrow),
    )
    # A label in HTML, the only kind with a background; nothing in it is from a file
    # but the colour, which a record's validation has checked.
    bubble = (
        f'<<table border="0" style="rounded" bgcolor="{colour}" cellpadding="1">'
        f'<tr><td><font color="{ink(colour)}">{arrow.number}</font></td></tr></table>>'
    )
    return (
        f"  n{numbers[arrow.source]} -> n{numbers[arrow.target]} "
        f"[label={bubble}, {more}];"
    )


# -- the list --------------------------------------------------------------------------


def _list(arrows: Iterable[Arrow]) -> str:
    lines = [line for arrow in arrows for line in _wrapped(arrow)]
    # Backslash and l: the line ends, and is set to the left.
    return "".join(f"{_quoted(line)}\\l" for line in (*lines, "", _LEGEND))


def _wrapped(arrow: Arrow) -> list[str]:
    return textwrap.wrap(
        f"{arrow.number}. {_sentence(arrow)}",
        _LIST_CHARACTERS,
        subsequent_indent="     ",
    )


def _sentence(arrow: Arrow) -> str:
    names = f"{_called(arrow.source)} → {_called(arrow.target)}"
    return f"{names}: {', '.join(_permissions(arrow.flows))}"


def _permissions(flows: Iterable[Flow]) -> Iterator[str]:
    """Yield each service and verdict of an arrow once."""
    by: dict[tuple[str, str, bool], list[str]] = {}
    for flow in flows:
        by.setdefault((flow.verdict, flow.service, flow.unnamed), []).append(flow.told)
    for (verdict, service, unnamed), facts in by.items():
        more = [" or ".join(facts)] if "" not in facts else []
        more += ["if the call names no target"] if unnamed else []
        extra = f" ({', '.join(more)})" if more else ""
        yield f"{verdict} {service.removeprefix('vitrail.')}{extra}"


def _called(name: str) -> str:
    if name in ADMIN_NAMES:
        return "you"
    of = name.removeprefix(DISPVM_OF)
    return of if of == name else f"a new {of}"
