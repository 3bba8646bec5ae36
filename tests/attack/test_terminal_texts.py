"""Names that a sandbox may have given, in tables, progress and arguments of brokerctl.

A sandbox with a shared directory names files in it as it likes; an image from elsewhere
names the versions of its packages.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from broker.cli import render
from broker.cli.images.steps import BuildSteps
from broker.cli.sandboxes import consent
from broker.cli.transfer import open_in

DRIVES = "\x1b]0;owned\x07"
MARKUP = "[/x][link=https://evil.example]backup[/link]"


class _Terminal:
    """A stream that ``rich`` treats as a terminal; ``text`` holds the output."""

    def __init__(self):
        self._file = io.StringIO()

    def __call__(self, **_):
        return Console(file=self._file, force_terminal=True, width=300)

    @property
    def text(self):
        return self._file.getvalue()


def _must_be_tame(text):
    assert "\x1b]" not in text
    assert "\\x1b]0;owned\\x07" in text
    assert MARKUP in text, "it is shown as it is"


def test_cell_of_a_table_is_no_row_of_its_own(capsys):
    path = f"/home/ada/shared/{DRIVES}\nbank     /folders/keys  write  /home/ada\t"
    render.table(("SANDBOX", "FOLDER"), [("mail", path)])
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["SANDBOX", "FOLDER"]
    (row,) = rows
    assert row.startswith("mail")
    assert "\\x1b]0;owned\\x07\\x0abank" in row
    assert "\x1b" not in row


def test_progress_of_an_import_drives_no_terminal(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(consent, "Console", terminal)
    with consent.progress_bar(f"read {DRIVES}{MARKUP}") as bar:
        bar(1, 2)
    _must_be_tame(terminal.text)


def test_steps_of_an_image_drive_no_terminal(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr("broker.cli.images.steps.Console", terminal)
    with BuildSteps(quiet=False) as steps:
        steps.step(f"reading {DRIVES}{MARKUP}")
    _must_be_tame(terminal.text)


@pytest.mark.parametrize(
    "address",
    [f"mailto:ada@example.org?body={'x' * 300}", f"https://example.org/{'x' * 5000}"],
)
def test_address_longer_than_a_path_is_an_address(address):
    request = open_in._request(address, None, edit=False)
    assert (request.url, request.path) == (address, None)
    # Of a scheme that is refused later, with its reason.
    other = address.partition(":")[2]
    assert open_in._request(f"x:{other}", None, edit=False).url == f"x:{other}"


def test_title_that_the_terminal_cannot_show_ends_no_verb(tmp_path):
    """As of a window, a program or a file, in a locale without UTF-8."""
    log = tmp_path / "vitrail/logs/web/program-1.log"
    log.parent.mkdir(parents=True)
    log.write_text("\u65e5\u672c or \u015b6n\n", encoding="utf-8")
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    words = [sys.executable, "-m", "broker.cli.app", "logs", "web"]
    shown = subprocess.run(
        words,
        env={**environ, "PYTHONIOENCODING": "iso8859-1"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert shown.stdout == b"\\u65e5\\u672c or \\u015b6n\n"
