"""What modules import, and how large that is: figures of pages and of tests.

An import inside of a function counts as any other: the process may load it.  One for
type checkers alone does not.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOPS = ("broker", "policy", "shims")
LAUNCH_CLASSES = frozenset(
    [
        "MicroVM",
        "ThrowawayVm",
        "External",
        "Bwrap",
        "Podman",
        "Nspawn",
        "Flatpak",
        "SharedBox",
    ]
)
LAUNCH_KINDS = frozenset(
    [
        "microvm",
        "external",
        "libvirt-qemu",
        "vmspawn",
        "firecracker",
        "cloud-hypervisor",
        "crosvm",
        "bwrap",
        "podman",
        "nspawn",
        "shared-box",
        "flatpak",
        "toolbox",
        "distrobox",
    ]
)
_MENTIONS = re.compile("|".join(sorted(LAUNCH_CLASSES | LAUNCH_KINDS)))
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


def tree(name: str) -> ast.Module:
    """Return a module's syntax tree, without the imports for type checkers only."""
    return _read(name)[0]


@cache
def _read(name: str) -> tuple[ast.Module, Size]:
    """Return a module's tree, see ``tree``, and its size."""
    text = modules()[name].read_text()
    parsed = ast.parse(text)
    found = _size_of(text, parsed)
    for node in _statements(parsed):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    return parsed, found


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
    wanted = {name.rpartition(".")[0]}
    for node in _statements(tree(name)):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted.add(node.module)
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names}
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


def _size_of(text: str, parsed: ast.Module) -> Size:
    docstrings: set[int] = set()
    strings: set[int] = set()
    for node in _statements(parsed):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                docstrings |= {*range(node.lineno, (node.end_lineno or 0) + 1)}
        elif getattr(node, "lineno", 0) != getattr(node, "end_lineno", 1):
            strings |= _lines_of_strings(node)
    # A blank line is code within a string, and so is what looks like a comment there.
    lines = text.splitlines()
    code = {
        number
        for number, line in enumerate(lines, 1)
        if number in strings or (line.strip() and not line.lstrip().startswith("#"))
    }
    return Size(1, len(lines), len(code - docstrings))


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
    sizes = [_read(name)[1] for name in names]
    return Size(
        len(sizes), sum(one.lines for one in sizes), sum(one.code for one in sizes)
    )


def class_names_twice() -> Mapping[str, tuple[str, ...]]:
    """Return each public class name of several modules, with these."""
    found: dict[str, list[str]] = {}
    for name in sorted(modules()):
        for node in tree(name).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name)
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
        if not name.startswith("broker.host.launchers.")
        if _MENTIONS.search(modules()[name].read_text())
        for line in sorted(set(_dispatches(tree(name))))
    ]


def _dispatches(parsed: ast.Module) -> Iterator[int]:
    for node in ast.walk(parsed):
        if isinstance(node, ast.expr | ast.pattern) and _asks_for_a_kind(node):
            yield node.lineno


def _asks_for_a_kind(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name("isinstance"), args=[_, wanted]):
            inner = [n.id for n in ast.walk(wanted) if isinstance(n, ast.Name)]
            return not LAUNCH_CLASSES.isdisjoint(inner)
        case ast.MatchClass(cls=ast.Name(id=name)):
            return name in LAUNCH_CLASSES
        case ast.MatchValue(value=ast.Constant(value=text)):
            return text in LAUNCH_KINDS
        case ast.Compare():
            return any(_kinds_of(side) for side in (node.left, *node.comparators))
        case ast.Dict(keys=keys):
            return sum(_kinds_of(key) for key in keys if key is not None) > 1
        case _:
            return False


def _kinds_of(node: ast.expr) -> int:
    """Return how many launch kinds a constant, a tuple or a set of such names."""
    parts = [node, *getattr(node, "elts", ())]
    return sum(isinstance(n, ast.Constant) and n.value in LAUNCH_KINDS for n in parts)
