"""The entries for desktops and file managers call a verb that exists, safely."""

from __future__ import annotations

import configparser
import os
import stat
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from broker.helpers.process.spawn import run_tool
from tests.kit.needs import requires

FOLDER = Path(str(resources.files("broker"))) / "data/desktop"
COMMAND = "brokerctl menu open --"
SANITIZE = "brokerctl menu sanitize --"


def exec_of(name: str, section: str) -> str:
    parser = configparser.RawConfigParser(strict=True)
    parser.optionxform = str
    parser.read(FOLDER / name, encoding="utf-8")
    return parser.get(section, "Exec")


def test_every_entry_hands_files_over_after_two_dashes():
    """A file whose name begins with a dash is no option."""
    assert exec_of("io.vitrail.Open.desktop", "Desktop Entry") == f"{COMMAND} %U"
    dolphin = exec_of("io.vitrail.Open.dolphin.desktop", "Desktop Action vitrailOpen")
    assert dolphin == f"{COMMAND} %U"
    thunar = ET.parse(FOLDER / "thunar-action.xml").findtext("command")
    assert thunar == f"{COMMAND} %F"
    dolphin = exec_of(
        "io.vitrail.Sanitize.dolphin.desktop", "Desktop Action vitrailSanitize"
    )
    thunar = ET.parse(FOLDER / "thunar-action-sanitize.xml").findtext("command")
    assert (dolphin, thunar) == (f"{SANITIZE} %F", f"{SANITIZE} %F")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nautilus-open-in-a-sandbox", ("menu", "open", "--")),
        ("nautilus-make-harmless", ("menu", "sanitize", "--")),
    ],
)
async def test_the_script_of_nautilus_hands_each_selected_path_over(
    tmp_path, name, words
):
    recorder = tmp_path / "brokerctl"
    recorder.write_text(f'#!/bin/sh\nfor w; do echo "$w"; done >> {tmp_path}/called\n')
    recorder.chmod(0o755)
    script = FOLDER / name
    assert script.stat().st_mode & stat.S_IXUSR
    # A sandbox made the directory "photos", a line break, "home": its second line would
    # be the path of a file of the user's.
    paths = ["file:///a%20b", "file:///$(id)", "file:///-x", "file:///'q'"]
    paths.append("file:///shared/photos%0Ahome/me/report.pdf")
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "NAUTILUS_SCRIPT_SELECTED_URIS": "\n".join(paths) + "\n",
        "NAUTILUS_SCRIPT_SELECTED_FILE_PATHS": "/a b\n/shared/photos\n/home/me\n",
    }
    await run_tool([script], env=env, deadline=30)
    called = (tmp_path / "called").read_text().splitlines()
    assert called == [w for path in paths for w in (*words, path)]


@requires("desktop-file-validate")
@pytest.mark.parametrize("entry", ["Open", "Prompt"])
async def test_the_desktop_file_is_valid(entry):
    await run_tool(["desktop-file-validate", FOLDER / f"io.vitrail.{entry}.desktop"])
