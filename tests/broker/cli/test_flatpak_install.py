"""``launcher install flatpak`` with an installation that a hostile publisher made."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from broker.cli.launchers.flatpak_setup import install_flatpak, remove_flatpak
from broker.core.errors import RefusedError, SetupError
from broker.core.paths import find_paths
from broker.host.launchers.flatpak.files import held
from tests.kit.wayland.compositor import short_directory

APP = "org.example.Foot"
ENTRY = f"""\
[Desktop Entry]
Type=Application
Name=Foot
Exec=/usr/bin/flatpak run --command=foot {APP}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An installed application; the directories of its export and of the menu."""
    with short_directory() as runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        yield installed(tmp_path, monkeypatch)


def installed(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "flatpak"
    program.parent.mkdir()
    deployed = tmp_path / "deployed"
    program.write_text(f"#!/bin/sh\necho {deployed}\n")
    program.chmod(0o755)
    exported = deployed / "export/share/applications"
    exported.mkdir(parents=True)
    (deployed / "metadata").write_text("[Application]\ncommand=foot\n")
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for name in ("HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        (tmp_path / name).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(tmp_path / name))
    return exported, tmp_path / "XDG_DATA_HOME/applications"


def names(menu: Path) -> set[str]:
    return {path.name for path in menu.glob("*")}


def test_an_entry_and_an_override_are_written_and_removed(place):
    exported, menu = place
    (exported / f"{APP}.desktop").write_text(ENTRY)
    (exported / f"{APP}.More.desktop").write_text(ENTRY)
    install_flatpak(APP, as_json=False)
    install_flatpak(APP, as_json=False)
    assert names(menu) == {f"{APP}.desktop", f"{APP}.More.desktop"}
    override = menu.parent / "flatpak/overrides" / APP
    text = override.read_text()
    assert "!wayland;" in text
    assert "WAYLAND_DISPLAY" not in text, "it has no lease yet"
    (menu / f"{APP}.Own.desktop").write_text(ENTRY)
    remove_flatpak(APP)
    assert names(menu) == {f"{APP}.Own.desktop"}, "the person's own stays"
    assert not override.exists()


def test_an_entry_with_the_name_of_another_application_is_not_written(place):
    exported, menu = place
    (exported / "firefox.desktop").write_text(ENTRY)
    (exported / f"{APP}Two.desktop").write_text(ENTRY)
    install_flatpak(APP, as_json=False)
    assert names(menu) == set()


def test_links_and_other_kinds_of_files_are_not_read(place, tmp_path):
    exported, menu = place
    mine = tmp_path / "mine"
    mine.write_text(ENTRY)
    (exported / f"{APP}.desktop").symlink_to(mine)
    os.mkfifo(exported / f"{APP}.Pipe.desktop")
    install_flatpak(APP, as_json=False)
    assert names(menu) == set()


def test_an_application_that_runs_under_vitrail_is_left_alone(place):
    paths = find_paths()
    with held(paths, APP), pytest.raises(RefusedError, match="is already running"):
        install_flatpak(APP, as_json=False)


def test_an_application_that_is_not_installed(place, tmp_path):
    (tmp_path / "bin/flatpak").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SetupError, match="cannot find the Flatpak application"):
        install_flatpak(APP, as_json=False)


def test_a_folder_that_cannot_be_written_is_named(place, tmp_path):
    exported, _ = place
    (exported / f"{APP}.desktop").write_text(ENTRY)
    data = tmp_path / "XDG_DATA_HOME"
    data.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(SetupError) as caught:
        install_flatpak(APP, as_json=False)
    assert str(data) in caught.value.where
