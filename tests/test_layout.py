"""The layout shows the trust boundary: what each process imports, and no more."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES_AT_MOST = 20
"""Of one package at one level: a listing that can be read at a glance."""

CLOSURES = {
    # program: (modules, lines) that its process may import; only ever lowered
    "broker.programs.host": (175, 25_300),
    "broker.programs.worker": (166, 29_000),
    "broker.programs.prompt": (45, 5_750),
}
FOREIGN = {
    "broker.programs.host": (
        "broker.viewer",
        "broker.jail",
        "broker.root",
        "broker.authority.decider",
        "broker.authority.permit",
        "broker.authority.questions",
        "broker.helpers.prompt",
        "policy.rules",
    ),
    "broker.programs.worker": (
        "broker.authority",
        "broker.host",
        "broker.viewer",
        "broker.root",
        "broker.helpers.pump",
        "broker.helpers.prompt",
        "broker.helpers.shipper",
        "broker.ipc.audit",
        "broker.ipc.control",
        "broker.net",
        "policy",
    ),
}


@cache
def modules():
    found = {}
    for top in ("broker", "policy"):
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


PROGRAMS = sorted(name for name in modules() if name.startswith("broker.programs."))


@cache
def imports_of(name):
    """Modules that are imported when this one is; not those of function bodies."""
    wanted = set()
    for node in _statements(ast.parse(modules()[name].read_text()).body):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wanted.add(node.module)
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names}
    parents = {name.rpartition(".")[0]}
    return {module for module in wanted | parents if module in modules()}


def _statements(body):
    """Statements that run at import: not in functions, not for type checkers."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        for inner in ("body", "orelse", "finalbody", "handlers"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _statements(getattr(node, inner, None) or [])


@cache
def closure(name):
    seen, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imports_of(module)
    return frozenset(seen)


@pytest.mark.parametrize("program", CLOSURES)
def test_import_closure_of_a_program_only_shrinks(program, capsys):
    found = closure(program)
    lines = sum(len(modules()[name].read_text().splitlines()) for name in found)
    with capsys.disabled():
        print(f"\n{program} imports {len(found)} modules, {lines} lines")
    most_modules, most_lines = CLOSURES[program]
    assert len(found) <= most_modules
    assert lines <= most_lines


@pytest.mark.parametrize("program", FOREIGN)
def test_program_imports_no_foreign_package(program):
    wrong = {
        name
        for name in closure(program)
        for package in FOREIGN[program]
        if name == package or name.startswith(package + ".")
    }
    assert wrong == set()


@pytest.mark.parametrize("name", ["model", "ports", "sandbox", "state"])
def test_wayland_state_names_handlers_only_in_annotations(name):
    """The import contracts ignore these edges because they do not exist at run time."""
    real = set(_all_imports(f"broker.jail.wayland.{name}"))
    assert {module for module in real if module.startswith(UPPER)} == set()


def test_wayland_modules_have_no_import_cycle():
    """Late imports count, annotations do not; the contracts cover only the scene."""
    names = {name for name in modules() if name.startswith("broker.jail.wayland.")}
    graph = {name: set(_all_imports(name)) & names - {name} for name in names}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("broker.jail.wayland.state") < order.index(
        "broker.jail.wayland.filter"
    )


UPPER = ("broker.jail.wayland.handlers", "broker.jail.wayland.scene.promote")


def _all_imports(name):
    """Of a module, those of its function bodies too; not those for type checkers."""
    tree = ast.parse(modules()[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_public_class_name_twice_in_a_process(program):
    """A name that is searched for leads to one class; late imports count, too."""
    found = {}
    for module in _ever_imported(program):
        for name in _public_classes(module):
            found.setdefault(name, set()).add(module)
    twice = {name: sorted(where) for name, where in found.items() if len(where) > 1}
    assert twice == {}


def _ever_imported(program):
    seen, waiting = set(), [program]
    while waiting:
        module = waiting.pop()
        if module in modules() and module not in seen:
            seen.add(module)
            waiting += [module.rpartition(".")[0], *_all_imports(module)]
    return seen


@cache
def _public_classes(module):
    body = ast.parse(modules()[module].read_text()).body
    classes = [node.name for node in body if isinstance(node, ast.ClassDef)]
    return frozenset(name for name in classes if not name.startswith("_"))


def test_no_package_has_too_many_modules_or_only_one():
    wrong = {}
    for init in [
        *ROOT.glob("broker/**/__init__.py"),
        *ROOT.glob("policy/**/__init__.py"),
    ]:
        here = init.parent
        own = [path for path in here.glob("*.py") if path.name != "__init__.py"]
        packages = [path for path in here.iterdir() if (path / "__init__.py").exists()]
        if len(own) > MODULES_AT_MOST or len(own) + len(packages) < 2:
            wrong[str(here.relative_to(ROOT))] = len(own)
    assert wrong == {}
