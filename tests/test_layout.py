"""The layout shows the trust boundary: what each process imports, and no more."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter

import pytest

from docs import print_processes
from docs.tables import imports
from docs.tables.features import FEATURES
from docs.tables.imports import ROOT, Size, modules
from docs.tables.processes import PROGRAMS, TOGETHER, of_no_daemon, together

MODULES_AT_MOST = 20
"""Of one package at one level: a listing that can be read at a glance."""

SLACK = 0.1
"""A bound is at most a tenth above its figure, or it is no longer the truth."""

# Only ever lowered.
CLASS_NAMES_TWICE = 9
MODULE_NAMES_OFTEN = 5
CIRCLES = 1
KINDS = 16
"""The kinds of process: rows of ``PROGRAMS`` other than phases and profiles."""
OTHER_KINDS = {
    # Words of 'brokerctl new --in', each with the kind that a written record gets.
    "broker.cli.sandboxes.presets": 1,
    # Protocols of a foreign machine's VMM, by which it takes a device: keys of
    # devices.toml, whatever the kind of its sandbox is.
}
"""Modules where a name of a kind has another meaning, with the number of places."""
OF_NO_DAEMON = 3_870
"""Lines in packages of daemons, outside of cli, that only brokerctl imports."""
MODULE_LINES = 600
LOCAL_END = "broker.viewer.host_ends.local_host"
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


STARTED = sorted(name for name in modules() if name.startswith("broker.programs."))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_keeps_its_bounds(program, capsys):
    """What its process may import, in functions too, in modules, lines and code."""
    found = imports.size(program.closure())
    _report(capsys, program.name, found)
    _within(found, Size(program.modules, program.lines, program.code))


def test_kinds_of_process_only_become_fewer():
    """A phase or profile of a program is not a kind; it has a bound of its own."""
    kinds = [program.name for program in PROGRAMS if program.is_kind]
    profiles = [program.name for program in PROGRAMS if program.profile_of]
    assert {program.profile_of for program in PROGRAMS} <= {"", *kinds}
    assert {program.phase_of for program in PROGRAMS} <= {"", *kinds, *profiles}
    _at_most(kinds, KINDS)


def test_all_processes_with_the_users_rights_keep_their_bounds(capsys):
    found = imports.size(together())
    _report(capsys, "all with the user's rights on one machine", found)
    _within(found, TOGETHER)


def _report(capsys, name, found):
    with capsys.disabled():
        print(
            f"\n{name}: {found.modules} modules, {found.lines} lines, {found.code} code"
        )


def _within(found, bound):
    for figure in ("modules", "lines", "code"):
        most, now = getattr(bound, figure), getattr(found, figure)
        assert now <= most, figure
        assert most <= now * (1 + SLACK) + 100, f"lower the bound of {figure} to {now}"


def test_every_program_has_a_row():
    """What ``broker.programs`` has, and what other modules start as a process."""
    found = {name for program in PROGRAMS for name in program.closure()}
    assert {name for name in STARTED if name not in found} == set()


def test_the_page_of_the_threat_model_has_the_table_of_programs():
    """Mend with: python -m docs.print_processes."""
    assert print_processes.main(["--check"]) == 0


def test_public_class_names_of_several_modules_only_become_fewer():
    _at_most(imports.class_names_twice(), CLASS_NAMES_TWICE)


def test_module_names_of_four_places_only_become_fewer():
    often = imports.module_names_often()
    # A feature has its own name in each process.
    _at_most([name for name in often if name not in FEATURES], MODULE_NAMES_OFTEN)


def test_import_circles_only_become_fewer():
    """Late imports count; 'brokerctl completion' lists the verbs, and is one."""
    _at_most([sorted(names) for names in imports.circles()], CIRCLES)


def test_launch_kinds_are_asked_for_in_their_launchers_only():
    """Code elsewhere asks a kind's row: ``launch.kind.boots``."""
    found = imports.kind_dispatches()
    counts = Counter(place.partition(":")[0] for place in found)
    assert counts == OTHER_KINDS, found


@pytest.mark.parametrize(
    "code",
    [
        "isinstance(launch, Podman | Nspawn)",
        "isinstance(launch.peer, model.UnixPeer)",
        "type(launch) is Bwrap",
        'kind.name == "vmspawn"',
        "taken[KEY] == kinds.MICROVM.name",
        'kind in ("bwrap", "podman")',
        "{Bwrap: run_box}",
        '{"nspawn": run_tree}',
        "{kinds.VMSPAWN.name: make}",
        "launches & {Bwrap, Podman}",
        "launches_of(records, Flatpak)",
        "match launch:\n    case SharedBox():\n        pass",
        'match kind.name:\n    case "flatpak":\n        pass',
        "match kind:\n    case kinds.EXTERNAL:\n        pass",
    ],
)
def test_each_form_of_asking_for_a_kind_is_found(code):
    assert imports.kinds_asked_for(code) == [code.count("match") + 1]


@pytest.mark.parametrize(
    "code",
    [
        "launch.kind.boots",
        'Flatpak("org.example.App")',
        '["podman", "save"]',
        "def run(launch: Bwrap) -> TypeGuard[Podman | Nspawn]: ...",
        "kinds.BWRAP",
    ],
)
def test_what_names_a_kind_without_asking_for_it_is_not_found(code):
    assert imports.kinds_asked_for(code) == []


def test_code_of_brokerctl_leaves_the_packages_of_daemons():
    found = of_no_daemon()
    lines = imports.size(found).lines
    assert lines <= OF_NO_DAEMON, sorted(found)
    assert lines > OF_NO_DAEMON * (1 - SLACK), f"lower OF_NO_DAEMON to {lines}"


def test_code_of_brokerctl_among_daemons_says_so():
    """A reader takes the folder for the process; here it is not the one that runs it."""
    silent = set()
    for name in of_no_daemon():
        text = ast.get_docstring(ast.parse(modules()[name].read_text())) or ""
        if not re.search(r"brokerctl|broker/cli", text):
            silent.add(name)
    assert silent == set()


def _at_most(found, most):
    assert len(found) <= most, found
    assert len(found) >= most * (1 - SLACK) - 1, f"lower the bound to {len(found)}"


def test_no_module_is_too_long():
    wrong = {}
    for name in modules():
        lines = imports.size({name}).lines
        if lines > MODULE_LINES:
            wrong[name] = lines
    assert wrong == {}


def closure(name):
    return imports.closure([name])


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
    real = set(imports.imports_of(f"broker.jail.wayland.{name}"))
    assert {module for module in real if module.startswith(UPPER)} == set()


def test_wayland_modules_have_no_import_cycle():
    """Late imports count, annotations do not; the contracts cover only the scene."""
    names = {name for name in modules() if name.startswith("broker.jail.wayland.")}
    graph = {name: set(imports.imports_of(name)) & names - {name} for name in names}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("broker.jail.wayland.state") < order.index(
        "broker.jail.wayland.filter"
    )


UPPER = ("broker.jail.wayland.handlers", "broker.jail.wayland.scene.promote")


@pytest.mark.parametrize("program", STARTED)
def test_no_public_class_name_twice_in_a_process(program):
    """A name that is searched for leads to one class; late imports count, too."""
    found = {}
    for module in closure(program):
        for name in imports.public_classes(module):
            found.setdefault(name, set()).add(module)
    twice = {name: sorted(where) for name, where in found.items() if len(where) > 1}
    assert twice == {}


def _loaded(*names):
    """Return what a process has loaded that imported modules of these names."""
    code = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, cwd=ROOT
    )
    return set(done.stdout.decode().split())


def test_what_host_and_viewer_both_import_is_loaded_before_they_fork():
    """So each has it once, in memory and in time; small modules may be missing."""
    before = "broker.programs.local", "broker.programs.local_common"
    host = _loaded(*before, "broker.programs.local_host")
    viewer = _loaded(*before, "broker.viewer.broker", LOCAL_END)
    assert len((host & viewer) - _loaded(*before)) <= 5


def test_what_unpacks_a_kernel_is_loaded_by_the_confined_process_alone():
    """So ``docs/tables/processes.py`` counts it there and not with its parent."""
    assert "broker.host.images.bzimage" not in _loaded("broker.host.images.unpack")


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
