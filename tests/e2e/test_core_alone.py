"""The core package without the others: it works, and says which package has the rest."""

from __future__ import annotations

import os
import shutil

import click
import pytest
import trio

from broker.cli.verbs import app
from broker.core.parts.table import PARTS, package, part_of
from policy.records.kinds import KINDS
from tests.kit.core_alone import CoreAlone
from tests.kit.installed import Installed
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

HELP = """
import contextlib, io, json, click
from click.shell_completion import ShellComplete
from broker.cli.verbs import VERBS, app

found = {}

def visit(command, path):
    answer = io.StringIO()
    with contextlib.redirect_stdout(answer), contextlib.suppress(click.exceptions.Exit):
        command.main([*path, "--help"], prog_name="brokerctl", standalone_mode=False)
    return answer.getvalue()

def walk(group, path):
    for name in group.list_commands(click.Context(group, info_name=name_of(path))):
        here = [*path, name]
        command = group.get_command(click.Context(group, info_name=name_of(path)), name)
        text = visit(app, here)
        assert "Usage: " in text, (here, text)
        found[" ".join(here)] = " ".join(text.split()) if "Not available" in text else ""
        if isinstance(command, click.Group):
            walk(command, here)

def name_of(path):
    return " ".join(["brokerctl", *path])

walk(app, [])
# A shell that completes the verbs asks for all of them.
offered = ShellComplete(app, {}, "brokerctl", "_COMPLETE").get_completions([], "")
assert {item.value for item in offered} >= {*VERBS}
print(json.dumps(found))
"""
"""Prints each verb with what it says in place of its help, "" if it has one."""

IMPORTS = """
import importlib, json, pkgutil
from broker.core.parts.table import part_of
names = []
for top in ("broker", "policy", "shims"):
    package = importlib.import_module(top)
    for found in pkgutil.walk_packages(package.__path__, f"{top}."):
        if not found.name.rpartition(".")[2].startswith("_"):
            names.append(found.name)
parts = {part_of(name) for name in names} - {None}
for name in names:
    if part_of(name) in parts:
        importlib.import_module(name)
print(json.dumps(sorted(parts)))
"""
"""Imports all modules of the parts that are there, and prints these parts."""

SENTENCES = """
import json, sys
from pathlib import Path
from broker.cli.launchers.table import launcher_of, setup_of, PROGRAMS
from broker.core.parts.absent import AbsentPartError
from broker.helpers.shipper import config as ship
from broker.helpers.shipper.run import make_target
from broker.host.required_parts import require_parts, unleased_records
from policy.records.kinds import KINDS
from policy.tools.record_files import load_files
from shims.bundle import guest_agent, write_programs

found = {}

def asked(what, call, *words):
    try:
        call(*words)
    except AbsentPartError as error:
        found[what] = [error.message, error.package, error.where]
    else:
        found[what] = []

for name, kind in KINDS.items():
    asked(f"kind {name}", launcher_of, kind)
for program in PROGRAMS:
    asked(f"install {program}", setup_of, program)
for target in (
    ship.PostgresTarget(name="t", address="postgresql://x"),
    ship.OtlpTarget(name="t", endpoint="http://localhost/v1/logs"),
    ship.IngestTarget(name="t", endpoint="http://localhost"),
    ship.JournaldTarget(name="t"),
    ship.JsonlTarget(name="t", path="/tmp/x"),
):
    asked(f"ship {target.__struct_config__.tag}", make_target, target)
records = load_files(sorted(Path(sys.argv[1]).glob("*.toml")))
assert not records.problems, records.problems
for name, record in records.records.items():
    asked(f"record {name}", require_parts, record)
programs = [path.name for path in write_programs(Path(sys.argv[1]))]
agent = guest_agent().decode()
print(json.dumps({
    "asked": found,
    "warnings": unleased_records(records),
    "guest": ["vitrail_x11.py" in programs, '\\nX11_BRIDGE = ""\\n' in agent],
}))
"""

RECORD = (
    'class = "disposable"\ndisplay = "allow"\n[label]\nname = "a"\ncolour = "orange"\n'
)
RECORDS = {
    "box": RECORD + '[launch]\nkind = "bwrap"\ncommand = ["foot", "-T", "alone"]\n',
    "box-x11": RECORD + '[window]\nx11 = true\n[launch]\nkind = "bwrap"\n',
    "vm": RECORD + '[launch]\nkind = "microvm"\n',
    "vm-x11": RECORD + '[window]\nx11 = true\n[launch]\nkind = "microvm"\n',
    "tree": RECORD + '[launch]\nkind = "nspawn"\nrootfs = "/srv/x"\n',
    "leased": RECORD + '[launch]\nkind = "external"\n[peer]\nhybrid = "/run/x/v"\n',
    "domain": RECORD + '[launch]\nkind = "external"\n[peer]\nlibvirt = "web"\n',
    "machine": RECORD + '[launch]\nkind = "external"\n[peer]\nmachine = "web"\n',
}


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    made = CoreAlone(tmp_path_factory.mktemp("core"), dict(os.environ))
    trio.run(made.make)
    return made


def _verbs(group, path=()):
    """Yield all verbs of this checkout, each with the part that has it."""
    for name in group.list_commands(click.Context(group)):
        here = (*path, name)
        command = group.get_command(click.Context(group), name)
        assert command is not None
        part = part_of(getattr(command.callback, "__module__", ""))
        yield " ".join(here), part
        if isinstance(command, click.Group) and part is None:
            yield from _verbs(command, here)


async def test_each_verb_has_its_help_or_says_its_package(core):
    verbs = dict(_verbs(app))
    assert {part for part in verbs.values() if part} == {*PARTS}
    found = await core.said(HELP)
    assert found.keys() == verbs.keys()
    for verb, part in verbs.items():
        sentence = f"'brokerctl {verb}' is in the package {package(part or '')}"
        assert (sentence in found[verb]) == (part is not None), (verb, found[verb])


@pytest.mark.parametrize("part", PARTS)
async def test_each_part_is_imported_without_the_others(core, tmp_path, part):
    parts = await core.with_part(part, tmp_path).said(IMPORTS)
    assert parts == [part]


async def test_kinds_receivers_and_records_say_their_package(core, tmp_path):
    for name, text in RECORDS.items():
        (tmp_path / f"{name}.toml").write_text(text)
    said = await core.said(SENTENCES, str(tmp_path))
    packages = {what: each[1] for what, each in said["asked"].items() if each}
    launchers, fleet, x11 = map(package, ("launchers", "fleet", "x11"))
    assert packages == {
        **{f"kind {name}": launchers for name, kind in KINDS.items() if kind.part},
        **{
            f"install {name}": launchers for name in ("libvirt", "toolbox", "distrobox")
        },
        **{f"ship {name}": fleet for name in ("postgresql", "otlp", "ingest")},
        **{f"record {name}": x11 for name in ("box-x11", "vm-x11")},
        "record tree": launchers,
    }
    message, _, where = said["asked"]["record box-x11"]
    assert message == f"x11 = true is in the package {x11}, which is not installed"
    assert where.endswith("box-x11.toml:7:1")
    assert said["guest"] == [False, True]
    absent = f": the package {launchers} is not installed"
    assert said["warnings"] == [
        f"'domain' gets no lease by libvirt's hook{absent}",
        "'machine' gets no lease when its machine is registered with systemd-machined"
        + absent,
    ]


@PID_NAMESPACES
@pytest.mark.skipif(not shutil.which("bwrap"), reason="no bubblewrap")
async def test_a_box_has_its_window_and_what_needs_another_package_is_refused(core):
    async with world(RECORDS, image=False, start=False) as w:
        vitrail = Installed(core.base, w.environ)
        child = vitrail.start("run", "-q", "box")
        await wait_window(w.comp, title="alone")
        child.kill()
        await child.wait()
        child.popen.stderr.close()
        refused = await vitrail.run("run", "box-x11")
        assert refused.code == 1
        assert "x11 = true is in the package vitrail-x11" in refused.err
        assert "sudo apt install vitrail-x11" in refused.err
        refused = await vitrail.run("run", "tree")
        assert refused.code == 1
        assert 'kind = "nspawn" is in the package vitrail-launchers' in refused.err
        checked = await vitrail.run("policy", "check")
        assert checked.code == 0, checked
        status = await vitrail.run("status")
        assert "'domain' gets no lease by libvirt's hook" in status.out + status.err
        doctor = await vitrail.run("doctor")
        assert 'records need kind = "nspawn", which is in the package' in doctor.out
        programs = [text for text in w.processes().values() if "broker" in text]
        assert programs
        assert all(str(core.prefix) in text for text in programs), programs
