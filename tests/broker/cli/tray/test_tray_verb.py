"""``brokerctl tray --autostart``: a file that the desktop starts it by."""

from __future__ import annotations

import configparser

from click.testing import CliRunner

from broker.cli.tray.tray_verb import command


def test_the_desktop_starts_it_by_a_file_of_the_specification(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert CliRunner().invoke(command, ["--autostart"]).exit_code == 0
    (path,) = (tmp_path / "autostart").iterdir()
    entry = configparser.ConfigParser()
    entry.optionxform = str
    entry.read_string(path.read_text())
    assert entry.sections() == ["Desktop Entry"]
    assert entry["Desktop Entry"]["Type"] == "Application"
    assert entry["Desktop Entry"]["Exec"].endswith(" tray")
    assert CliRunner().invoke(command, ["--no-autostart"]).exit_code == 0
    assert not path.exists()
