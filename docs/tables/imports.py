"""What modules import, and how large that is: figures of pages and of tests.

An import inside of a function counts as any other: the process may load it.  One for
type checkers alone does not.
"""

from __future__ import annotations

import ast
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOPS = ("broker", "policy", "shims")
LAUNCH_CLASSES = frozenset(
    {
        *("MicroVM", "ThrowawayVm", "External", "Bwrap", "Podman", "Nspawn"),
        *("Flatpak", "SharedBox"),
        *("HybridPeer", "CidPeer", "LibvirtPeer", "MachinePeer", "UnixPeer"),
    }
)
"""Classes of launches, and of the peers by which foreign ones are recognised."""
LAUNCH_KINDS = frozenset(
    {
        *("microvm", "external", "libvirt-qemu", "vmspawn"),
        *("bwrap", "podman", "nspawn", "shared-box"),
        *("flatpak", "toolbox", "distrobox"),
    }
)
LAUNCH_ROWS = frozenset(
    {
        *("MICROVM", "LIBVIRT"),
        *("VMSPAWN", "BWRAP", "PODMAN", "NSPAWN", "FLATPAK", "SHARED_BOX"),
        "EXTERNAL",
    }
)
"""Constants that are a kind's row, or several."""
_LAUNCHERS = ("broker.host.launchers.", "broker.cli.launchers.")
"""Folders of launchers: the host's half, and brokerctl's."""
_TABLES = frozenset(
    {
        "policy.records.kinds",
        "policy.records.model",
        "policy.records.launches",
        "policy.records.launch_table",
    }
)
"""A kind's row, its class, and how its record becomes that: they list kinds."""
_MENTIONS = re.compile("|".join(sorted(LAUNCH_CLASSES | LAUNCH_KINDS | LAUNCH_ROWS)))
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True, slots=True, order=True)
class Size:
    """Modules, lines of text, and lines with code: no comment, no docstring."""

    modules: int
    lines: int
    code: int


@cache
def modules() -> Mapping[str, Path]:
    """Return all modules of the product by their dotted names."""
    found = {}
    for top in TOPS:
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@dataclass(frozen=True, slots=True)
class _Module:
    """What the figures need of a module; its tree is large, and there are many."""

    size: Size
    named: frozenset[str]
    """What its imports name, except for type checkers."""
    classes: tuple[str, ...]
    """The public classes at its top level."""


@cache
def _read(name: str) -> _Module:
    text = modules()[name].read_text()
    parsed = ast.parse(text)
    size = size_of_text(text, parsed)
    classes = [node.name for node in parsed.body if isinstance(node, ast.ClassDef)]
    public = tuple(name for name in classes if not name.startswith("_"))
    for node in _statements(parsed):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                node.body = []
            case _:
                pass
    named: set[str] = set()
    for node in _statements(parsed):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named.add(node.module)
            named |= {f"{node.module}.{alias.name}" for alias in node.names}
    return _Module(size, frozenset(named), public)


def _statements(parsed: ast.Module) -> Iterator[ast.AST]:
    """Yield statements, handlers and cases: a twentieth of what ``ast.walk`` yields."""
    waiting: list[ast.AST] = [parsed]
    for node in waiting:
        yield node
        for name in _BLOCKS:
            waiting += getattr(node, name, ())


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all that a statement has outside of the statements in it."""
    for name, value in ast.iter_fields(node):
        if name not in _BLOCKS:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from ast.walk(child)


@cache
def imports_of(name: str) -> frozenset[str]:
    """Return the modules that one imports, its package among them."""
    wanted = {name.rpartition(".")[0], *_read(name).named}
    return frozenset(wanted & modules().keys())


def closure(names: Iterable[str], without: Collection[str] = ()) -> frozenset[str]:
    """Return all that is imported by some modules, directly or not, and these.

    ``without``: modules that only another process of a fork imports.
    """
    return _closure(tuple(names), frozenset(without))


@cache
def _closure(names: tuple[str, ...], without: frozenset[str]) -> frozenset[str]:
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in without:
            seen.add(name)
            waiting += imports_of(name)
    return frozenset(seen)


def size_of_text(text: str, parsed: ast.Module) -> Size:
    """Return the size of one module; ``parsed`` is its text's tree."""
    lines = text.splitlines()
    # A blank line is code within a string, and so is what looks like a comment there.
    doubtful = [
        number
        for number, line in enumerate(lines, 1)
        if not line.strip() or line.lstrip().startswith("#")
    ]
    docstrings: set[int] = set()
    strings: set[int] = set()
    for node in _statements(parsed):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                docstrings |= {*range(node.lineno, (node.end_lineno or 0) + 1)}
        elif isinstance(node, ast.stmt) and _has_one(doubtful, node):
            strings |= _lines_of_strings(node)
    code = {*range(1, len(lines) + 1)} - {*doubtful} | strings
    return Size(1, len(lines), len(code - docstrings))


def _has_one(lines: Sequence[int], statement: ast.stmt) -> bool:
    """Whether a line is in a statement, outside of the statements in it; sorted lines."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(node.lineno for node in decorators)])
    body = getattr(statement, "body", [])
    last = body[0].lineno if body else statement.end_lineno or statement.lineno
    place = bisect_left(lines, first)
    return place < len(lines) and lines[place] <= last


def _lines_of_strings(statement: ast.AST) -> set[int]:
    found: set[int] = set()
    for node in _expressions(statement):
        match node:
            case ast.Constant(value=str() | bytes()) | ast.JoinedStr():
                found |= {*range(node.lineno, (node.end_lineno or 0) + 1)}
            case _:
                pass
    return found


def size(names: Collection[str]) -> Size:
    """Return the sum of some modules."""
    sizes = [_read(name).size for name in names]
    return Size(
        len(sizes), sum(one.lines for one in sizes), sum(one.code for one in sizes)
    )


def public_classes(module: str) -> tuple[str, ...]:
    """Return the names of a module's public classes."""
    return _read(module).classes


def class_names_twice() -> Mapping[str, tuple[str, ...]]:
    """Return each public class name of several modules, with these."""
    found: dict[str, list[str]] = {}
    for name in sorted(modules()):
        for class_name in public_classes(name):
            found.setdefault(class_name, []).append(name)
    return {name: tuple(where) for name, where in found.items() if len(where) > 1}


def module_names_often() -> Mapping[str, int]:
    """Return each last part of a module's name that four modules have, or more."""
    found: dict[str, int] = {}
    for name, path in modules().items():
        if path.name != "__init__.py":
            last = name.rpartition(".")[2]
            found[last] = found.get(last, 0) + 1
    return {name: count for name, count in found.items() if count > 3}


def circles() -> list[frozenset[str]]:
    """Return the sets of modules that import each other.

    That a module's own package is imported before it makes no circle.
    """
    graph = {
        name: {other for other in imports_of(name) if not name.startswith(f"{other}.")}
        for name in modules()
    }
    # Most are in no circle: nothing imports them, or they import nothing that is left.
    while ends := graph.keys() - set().union(*graph.values()) | {
        name for name, others in graph.items() if not others
    }:
        graph = {n: others - ends for n, others in graph.items() if n not in ends}
    reached = {name: _reach(graph, name) for name in graph}
    found = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in graph
    }
    return sorted((one for one in found if len(one) > 1), key=sorted)


def _reach(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def kind_dispatches() -> list[str]:
    """Return places, as module:line, that ask for a launch kind outside its launcher."""
    return [
        f"{name}:{line}"
        for name in sorted(modules())
        if not name.startswith(_LAUNCHERS)
        if _MENTIONS.search(text := modules()[name].read_text())
        for line in kinds_asked_for(text, listing=name in _TABLES)
    ]


def kinds_asked_for(text: str, *, listing: bool = False) -> list[int]:
    """Return lines of code that ask for a launch kind.

    ``listing``: the code may list kinds, and only those lines count that compare one.
    """
    lines: set[int] = set()
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        if _compares_kinds(node) or (not listing and _lists_kinds(node)):
            lines.add(getattr(node, "lineno", 0))
        # Types are in the subscripts of annotations and of type aliases.
        waiting += [
            child
            for child in ast.iter_child_nodes(node)
            if not (isinstance(node, ast.Subscript) and child is node.slice)
        ]
    return sorted(lines)


def _compares_kinds(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name("isinstance" | "issubclass"), args=[_, wanted]):
            return any(_is_kind(part) for part in ast.walk(wanted))
        case ast.MatchClass(cls=cls):
            return _is_kind(cls)
        case ast.MatchValue(value=value):
            return _is_kind(value) or _names_kind(value)
        case ast.Compare():
            sides = (node.left, *node.comparators)
            parts = [
                part for side in sides for part in (side, *getattr(side, "elts", ()))
            ]
            return any(_is_kind(part) or _names_kind(part) for part in parts)
        case _:
            return False


def _lists_kinds(node: ast.AST) -> bool:
    """Whether kinds, or classes of launches, are keys, elements or arguments."""
    match node:
        case ast.Dict(keys=keys):
            return any(k is not None and (_is_kind(k) or _names_kind(k)) for k in keys)
        case ast.Set(elts=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            return any(_is_kind(part) for part in parts)
        case ast.Call(args=parts):
            return any(_is_kind(part) for part in parts)
        case _:
            return False


def _is_kind(node: ast.AST) -> bool:
    """Whether an expression is a kind's row, its name, or a class of launches."""
    match node:
        case (
            ast.Name(id=name)
            | ast.Attribute(attr="name" | "value", value=ast.Name(id=name))
        ):
            return name in LAUNCH_ROWS | LAUNCH_CLASSES
        case ast.Attribute(attr="name" | "value", value=ast.Attribute(attr=name)):
            return name in LAUNCH_ROWS
        case ast.Attribute(attr=name):
            return name in LAUNCH_ROWS | LAUNCH_CLASSES
        case _:
            return False


def _names_kind(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value in LAUNCH_KINDS
