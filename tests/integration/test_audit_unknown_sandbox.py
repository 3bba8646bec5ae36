"""``brokerctl audit --sandbox``: a name that no sandbox has is said to be one."""

from __future__ import annotations

import pytest
import trio
from click.testing import CliRunner

from broker.authority.audit.store import open_store
from broker.cli.audit.verbs import _unknown, command
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


@pytest.mark.parametrize("words", [(), ("stats",), ("stats", "--json")])
def test_a_question_about_it_has_the_hint(words, tmp_path):
    async def make():
        async with open_store(tmp_path / "XDG_STATE_HOME/vitrail/audit.sqlite"):
            pass

    (tmp_path / "XDG_STATE_HOME/vitrail").mkdir(parents=True)
    trio.run(make)
    done = CliRunner().invoke(command, [*words, "--sandbox", "wrok"])
    assert done.exit_code == 1
    assert "did you mean 'work'?" in done.stderr


def test_a_record_that_has_not_run_is_none():
    assert not _unknown("work")
