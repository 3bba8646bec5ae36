"""Parts that few need are packages: the core imports them only where it names the package."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest

from broker.core.parts.table import PARTS, package, part_of
from docs.tables.imports import ROOT, TOPS, modules


def _imports(name):
    """Yield the modules that one imports, and whether ``needed`` is around it."""
    waiting = [(ast.parse(modules()[name].read_text()), False)]
    while waiting:
        node, inside = waiting.pop()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.With(items=[ast.withitem(ast.Call(func=ast.Name(id="needed")))]):
                inside = True
            case ast.ImportFrom(module=str() as module):
                for alias in node.names:
                    whole = f"{module}.{alias.name}"
                    yield (whole if whole in modules() else module), inside
            case ast.Import():
                for alias in node.names:
                    yield alias.name, inside
            case _:
                pass
        waiting += [(child, inside) for child in ast.iter_child_nodes(node)]


def _foreign(name):
    """Return what a module imports of a part that is not its own."""
    own = part_of(name)
    found = ((target, inside) for target, inside in _imports(name))
    return [
        (target, inside)
        for target, inside in found
        if target.startswith(TOPS) and part_of(target) not in {None, own}
    ]


def test_a_module_imports_another_part_only_where_it_names_the_package():
    """Use ``from MODULE import NAME`` in a block of ``needed``."""
    wrong = {
        (name, target)
        for name in modules()
        for target, inside in _foreign(name)
        if not inside
    }
    assert wrong == set()


def test_the_core_asks_for_each_part_somewhere():
    """What the table has and nothing reaches would be dead, or be reached in another way."""
    asked = {part_of(target) for name in modules() for target, _ in _foreign(name)}
    assert asked == {*PARTS}


@pytest.mark.parametrize("name", PARTS)
def test_the_table_names_what_exists(name):
    part = PARTS[name]
    assert [m for m in part.modules if m not in modules()] == []
    assert [f for f in part.files if not (ROOT / f).exists()] == []


def test_no_module_is_of_two_parts():
    owners = {
        module: [
            name
            for name, part in PARTS.items()
            if any(f"{module}.".startswith(f"{prefix}.") for prefix in part.modules)
        ]
        for module in modules()
    }
    assert {module: names for module, names in owners.items() if len(names) > 1} == {}


def test_the_package_of_a_module_is_not_of_another_part():
    """It is imported first, and would be absent with the other one."""
    wrong = {
        name
        for name in modules()
        if part_of(name.rpartition(".")[0]) not in {None, part_of(name)}
    }
    assert wrong == set()


def test_debian_and_pip_have_the_same_parts():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    optional = project["project"]["optional-dependencies"]
    assert PARTS.keys() <= optional.keys()
    programs = {name for part in PARTS.values() for name in part.programs}
    assert programs <= project["tool"]["vitrail"]["programs"].keys()
    packages = [package(name) for name in PARTS]
    control = (ROOT / "debian/control").read_text()
    named = re.findall(r"^Package: (.*)$", control, re.MULTILINE)
    assert sorted(named) == sorted(["vitrail", "vitrail-viewer", *packages])
    core = control.partition("Package: vitrail\n")[2].partition("\nDescription:")[0]
    recommended = core.partition("\nRecommends:")[2]
    assert [name for name in packages if name not in recommended] == []
    rules = (ROOT / "debian/rules").read_text()
    (made,) = re.findall(r"^PARTS = (.*)$", rules, re.MULTILINE)
    assert sorted(made.split()) == sorted(["viewer", *PARTS])
