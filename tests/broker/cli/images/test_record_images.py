"""Which packages a record's image has."""

from __future__ import annotations

import pytest

from broker.cli.images.record_images import packages_of, spec_of
from broker.cli.images.x11_needs import X_SERVER
from broker.host.images import store
from policy.records.loader import load_records

LAUNCH = '[launch]\nkind = "microvm"\nimage = "own"\n'


@pytest.fixture(name="records")
def _records(tmp_path):
    folder = tmp_path / "sandboxes.d"
    folder.mkdir()
    for name, text in {
        "box": '[launch]\nkind = "bwrap"\n',
        "plain": '[launch]\nkind = "microvm"\n',
        "own": f'{LAUNCH}packages = ["imv"]\n',
        "windows": f'[window]\nx11 = true\n{LAUNCH}packages = ["xterm"]\n',
    }.items():
        (folder / f"{name}.toml").write_text(f'class = "persistent"\n{text}')
    found = load_records([folder])
    assert found.problems == ()
    return found.records


def test_an_image_has_its_records_packages(records):
    spec = spec_of(records["own"])
    assert (spec.name, spec.packages) == ("own", (*store.DEFAULT_PACKAGES, "imv"))
    assert spec_of(records["windows"]).packages[-2:] == ("xterm", X_SERVER)
    assert spec_of(records["box"]) is None
    assert spec_of(records["plain"]) is None


def test_an_image_that_is_built_by_name_is_the_first_records(records):
    """So a record's start does not build it again at once."""
    found = packages_of("own", records.values())
    assert found == spec_of(records["own"]).packages
    assert packages_of("default", records.values()) == ()
