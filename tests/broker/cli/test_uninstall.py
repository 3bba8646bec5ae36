"""``brokerctl uninstall`` leaves nothing of Vitrail's, and keeps the user's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli.menu.uninstall import command
from broker.cli.sandboxes.new import command as new
from broker.core.errors import RefusedError
from broker.session.menu_icons import write_prompt_entry


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in (
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_STATE_HOME",
        "XDG_CACHE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    run(new, "work")
    hook = tmp_path / ".config/containers/oci/hooks.d"
    hook.mkdir(parents=True)
    mine = tmp_path / ".local/share/applications/mine.desktop"
    mine.write_text("")
    write_prompt_entry()
    return tmp_path


def run(what, *words):
    done = CliRunner().invoke(what, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def left(home):
    return {
        p for p in home.rglob("*vitrail*") if p.is_file() or "sandboxes.d" in p.name
    }


def test_entries_go_and_records_stay(home):
    assert left(home)
    run(command, "--yes")
    assert not left(home)
    assert (home / ".config/vitrail/sandboxes.d/work.toml").exists()
    assert (home / ".local/share/applications/mine.desktop").exists()


def test_purge_leaves_nothing(home):
    said = run(command, "--yes", "--purge")
    assert str(home / ".config/vitrail") in said
    assert not list(home.rglob("*vitrail*"))


def test_purge_leaves_what_others_have_put_into_the_cache(home):
    cache = home / ".cache/vitrail"
    for name in ("images/demo/root.img", "vmlinux/ab", "accel.json", "mine/notes"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("")
    (home / ".cache/vitrail-printing").mkdir()
    said = run(command, "--yes", "--purge")
    assert str(cache / "images") in said
    assert f"kept in {cache}, as Vitrail did not write it: mine" in said
    assert [path.name for path in cache.iterdir()] == ["mine"]
    assert (cache / "mine/notes").exists()
    assert not (home / ".cache/vitrail-printing").exists()


def test_nothing_is_removed_unasked(home):
    before = left(home)
    with pytest.raises(RefusedError, match="standard input is not a terminal"):
        CliRunner().invoke(command, ["--purge"], catch_exceptions=False)
    assert left(home) == before
    assert Path(home / ".config/vitrail").exists()


def test_the_entry_of_the_question_is_written_where_none_is_installed(
    home, tmp_path, monkeypatch
):
    entry = home / ".local/share/applications/io.vitrail.Prompt.desktop"
    entry.unlink()
    shared = tmp_path / "share/applications"
    shared.mkdir(parents=True)
    (shared / entry.name).write_text("")
    monkeypatch.setenv("XDG_DATA_DIRS", f"/nowhere:{tmp_path}/share")
    write_prompt_entry()
    assert not entry.exists()
    (shared / entry.name).unlink()
    write_prompt_entry()
    assert "Name=Vitrail asks" in entry.read_text()
