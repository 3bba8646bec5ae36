"""A kind's row says what its launches have; nothing else says it a second time."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.records.kinds import KINDS, kinds_with
from policy.records.launch_table import LAUNCH, STATE
from policy.records.model import (
    Bwrap,
    CidPeer,
    External,
    Flatpak,
    MicroVM,
    Nspawn,
    Podman,
    SharedBox,
    ThrowawayVm,
    boots,
    has_command,
)
from policy.records.places import has_folders, is_held

_ROOT = Path(__file__).parents[3]
_VM = ("image", 512, 1)
_LAUNCHES = {
    "microvm": MicroVM(*_VM, "none", ("foot",), 60),
    "libvirt-qemu": ThrowawayVm(*_VM, ("foot",), 60),
    "vmspawn": ThrowawayVm(*_VM, ("foot",), 60, "vmspawn"),
    "bwrap": Bwrap(("foot",)),
    "podman": Podman(("foot",)),
    "nspawn": Nspawn(("foot",), Path("/tree")),
    "flatpak": Flatpak("org.example.Foot"),
    "shared-box": SharedBox(),
    "external": External(CidPeer(7)),
}


def test_every_kind_of_the_format_has_a_row_and_a_launch():
    assert set(LAUNCH.by_key["kind"].kind.options) == set(KINDS) == set(_LAUNCHES)


@pytest.mark.parametrize("name", KINDS)
def test_a_launch_has_what_its_row_says(name):
    launch, kind = _LAUNCHES[name], KINDS[name]
    fields = set(launch.__struct_fields__)
    assert launch.kind is kind
    assert has_command(launch) == kind.own_command == ("command" in fields)
    assert boots(launch) == kind.boots == ("boot_deadline" in fields)
    assert is_held(launch) == kind.holds == ({"read_write", "open_files"} <= fields)
    assert kind.network == ("network" in fields)
    assert not has_folders(launch) or "folders" in fields
    assert STATE.belongs_to(name) == (kind.homes or name in STATE.if_set)


@pytest.mark.parametrize(
    ("key", "capability"),
    [
        ("boot_deadline", "boots"),
        ("cpus", "boots"),
        ("command", "own_command"),
        ("network", "network"),
        ("bind_read_write", "holds"),
        ("open_files", "holds"),
    ],
)
def test_keys_belong_to_the_kinds_that_have_the_capability(key, capability):
    field = LAUNCH.by_key[key]
    assert tuple(k for k in KINDS if field.belongs_to(k)) == kinds_with(capability)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_a_page_and_a_test_of_conformance(name):
    def says(folder, pattern):
        return any(
            f'"{name}"' in path.read_text() for path in (_ROOT / folder).glob(pattern)
        )

    assert says("docs/launchers", "*.md"), "docs/launchers"
    if name != "external":
        assert says("tests/conformance/launchers", "*.py"), "tests/conformance"
