"""'Open in a sandbox' comes into the menus of file managers by one command, and goes."""

from __future__ import annotations

import stat
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from broker.cli.menu import file_managers
from broker.cli.menu.file_managers import (
    file_manager_entries,
    forget_thunar_action,
    write_file_managers,
)
from broker.core.errors import RefusedError

MANAGERS = ("nautilus", "dolphin", "thunar")
PROGRAM = "/opt/a place/brokerctl"
OWN = "<actions><action><name>Mine</name></action></actions>\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in MANAGERS:
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(file_managers, "brokerctl_program", lambda: PROGRAM)
    return tmp_path


def actions(home: Path) -> list[str]:
    tree = ET.parse(home / "config/Thunar/uca.xml")
    return [str(one.findtext("name")) for one in tree.iter("action")]


def test_each_file_manager_gets_an_entry_that_runs_this_brokerctl(home):
    written = write_file_managers()
    assert len(written) == 4
    entry, script, menu, thunar = (path.read_text() for path in written)
    assert f'Exec="{PROGRAM}" menu open -- %U' in entry
    assert f'Exec="{PROGRAM}" menu open -- %U' in menu
    assert f"'{PROGRAM}' menu open -- \"$file\"" in script
    assert f"<command>'{PROGRAM}' menu open -- %F</command>" in thunar
    # Nautilus and Dolphin run no other.
    for path in written[1:3]:
        assert path.stat().st_mode & stat.S_IXUSR
    assert list(file_manager_entries()) == written[:3]


def test_a_file_manager_that_is_not_installed_gets_none(home):
    for name in MANAGERS:
        (home / "bin" / name).unlink()
    (entry,) = write_file_managers()
    assert entry.name == "io.vitrail.Open.desktop"


def test_the_users_own_actions_stay(home):
    path = home / "config/Thunar/uca.xml"
    path.parent.mkdir(parents=True)
    path.write_text(OWN)
    for _ in range(2):  # the second time in place of the first
        write_file_managers()
        assert actions(home) == ["Mine", "Open in a sandbox"]
    forget_thunar_action()
    assert actions(home) == ["Mine"]


def test_a_damaged_file_of_actions_is_not_overwritten(home):
    path = home / "config/Thunar/uca.xml"
    path.parent.mkdir(parents=True)
    path.write_text("<actions>")
    with pytest.raises(RefusedError, match="no end of actions"):
        write_file_managers()
    assert path.read_text() == "<actions>"
