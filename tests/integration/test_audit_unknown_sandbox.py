"""``brokerctl audit --sandbox``: a name that no sandbox has is said to be one."""

from __future__ import annotations

import pytest

from broker.cli.audit.verbs import _unknown
from tests.kit.world import record


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A user with one record."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    folder = tmp_path / "XDG_CONFIG_HOME/vitrail/sandboxes.d"
    folder.mkdir(parents=True)
    (folder / "work.toml").write_text(record())


def test_a_typo_has_the_nearest_name():
    said = _unknown("wrok")
    assert said == "no sandbox or record is named 'wrok'; did you mean 'work'?"


def test_a_record_that_has_not_run_is_none():
    assert not _unknown("work")
