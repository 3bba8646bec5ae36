"""Which files go with a record that is removed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from broker.cli.sandboxes.leftovers import find_leftovers
from tests.kit.brokerctl import home, paths_of


@pytest.fixture
def paths():
    with home() as env:
        yield paths_of(env)


def test_logs_of_another_record_stay_whatever_its_name_is(paths):
    """``work-2024`` is a name as disposables of ``work`` have it, and a record here."""
    for name in ("work", "work-2023", "work-2024", "other"):
        paths.logs(name).mkdir(parents=True)
    records = [SimpleNamespace(name=name, host=SimpleNamespace(launch=None)) for name in ("work", "work-2024")]  # fmt: skip
    found = find_leftovers(paths, "work", records)
    assert [folder.name for folder in found.logs] == ["work", "work-2023"]
