"""What a record needs of other packages is refused, and named, if these are absent."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from broker.core.parts import absent
from broker.core.parts.absent import AbsentPartError, is_installed, needed
from broker.core.parts.table import PARTS, part_of, part_of_file
from broker.host.required_parts import require_parts, unleased_records
from policy.records.kinds import KINDS
from policy.records.model import RecordSet
from policy.tools.record_files import parse_record

LABEL = 'class = "disposable"\n[label]\nname = "a"\ncolour = "orange"\n'
X11 = "[window]\nx11 = true\n"


def record_of(text):
    record, problems = parse_record("app", Path("app.toml"), (LABEL + text).encode())
    assert record is not None, problems
    return record


@pytest.fixture
def core_alone(monkeypatch):
    monkeypatch.setattr(absent, "find_spec", lambda _name: None)


def test_all_is_installed_in_a_checkout():
    assert [part for part in PARTS if not is_installed(part)] == []
    require_parts(record_of(f'{X11}[launch]\nkind = "nspawn"\nrootfs = "/srv/x"\n'))


@pytest.mark.usefixtures("core_alone")
@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values() if kind.part])
def test_a_kind_of_another_package_is_refused(kind):
    tree = 'rootfs = "/srv/x"\n' if kind == "nspawn" else ""
    record = record_of(f'[launch]\nkind = "{kind}"\n{tree}')
    with pytest.raises(AbsentPartError, match="vitrail-launchers") as refused:
        require_parts(record)
    assert f'kind = "{kind}" is in the package' in refused.value.message
    assert refused.value.where.startswith("app.toml:6")


@pytest.mark.usefixtures("core_alone")
@pytest.mark.parametrize("kind", ["microvm", "bwrap", "podman"])
def test_a_record_that_allows_x11_programs_is_refused(kind):
    require_parts(record_of(f'[launch]\nkind = "{kind}"\n'))
    with pytest.raises(AbsentPartError, match="vitrail-x11") as refused:
        require_parts(record_of(f'{X11}[launch]\nkind = "{kind}"\n'))
    assert refused.value.hint == "sudo apt install vitrail-x11"


@pytest.mark.usefixtures("core_alone")
def test_the_x11_key_of_a_machine_of_others_has_no_effect():
    require_parts(
        record_of(f'{X11}[launch]\nkind = "external"\n[peer]\nhybrid = "/run/x/v"\n')
    )


def test_a_directory_that_a_removed_package_left_is_no_part(monkeypatch):
    left = ModuleSpec("shims.x11", None, is_package=True)
    monkeypatch.setattr(absent, "find_spec", lambda _name: left)
    assert not is_installed("x11")


def test_a_package_whose_parent_is_absent_is_absent(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(absent, "find_spec", fail)
    assert not is_installed("fleet")


def test_another_missing_module_is_no_part():
    with pytest.raises(ModuleNotFoundError), needed("this"):
        raise ModuleNotFoundError(name="psycopg")
    sentence = "this is in the package vitrail-fleet"
    with pytest.raises(AbsentPartError, match=sentence), needed("this"):
        raise ModuleNotFoundError(name="broker.fleet.server")


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("broker.fleet", "fleet"),
        ("broker.fleet.server", "fleet"),
        ("broker.fleets", None),
        ("broker.cli.fleet", None),
        ("broker.cli.fleet.ship", None),
        ("broker.cli.launchers.libvirt_domain", "launchers"),
        ("broker.host.launchers.machined", None),
        ("", None),
    ],
)
def test_the_part_of_a_module(module, part):
    assert part_of(module) == part


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("broker/fleet/server.py", "fleet"),
        ("broker/data/sql/fleet-views.sql", "fleet"),
        ("broker/data/systemd/system/vitrail-host.service", None),
        ("shims/x11", "x11"),
        ("shims/guest/x_server.py", None),
    ],
)
def test_the_part_of_a_file(path, part):
    assert part_of_file(path) == part


@pytest.mark.usefixtures("core_alone")
def test_records_without_a_lease_are_named():
    texts = {
        "web": '[launch]\nkind = "external"\n[peer]\nlibvirt = "web"\n',
        "own": '[launch]\nkind = "external"\n[peer]\nhybrid = "/run/v"\n',
        "box": '[launch]\nkind = "bwrap"\n',
    }
    records = RecordSet(
        {name: record_of(text) for name, text in texts.items()}, {}, (), ""
    )
    (warning,) = unleased_records(records)
    assert warning.startswith("'web' gets no lease by libvirt's hook")
