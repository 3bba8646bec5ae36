"""What every verb prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from broker.cli import render
from broker.core.errors import RefusedError


def test_a_line_of_json_has_nothing_that_drives_a_terminal(capsys):
    """As ``run --json`` shows what a guest's program printed."""
    value = {"output": "".join(map(chr, range(0x20))) + "\x7f\x85\x9b2J\u202e\u200b"}
    render.json_line(value)
    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert said.endswith("\n")
    assert said[:-1].isascii()
    assert said[:-1].isprintable()


@pytest.mark.parametrize("language", ["C.UTF-8", "de_DE.UTF-8"])
def test_error_is_english_in_each_locale(capsys, monkeypatch, language):
    """Commands, and what begins the lines, are searched for and copied."""
    monkeypatch.setenv("LANG", language)
    error = RefusedError(
        "no sandbox '{name}%s\x1b[2J' is running",
        hint="to list the running sandboxes, run 'brokerctl status'",
    )
    render.error(error)
    assert capsys.readouterr().err == (
        "error: no sandbox '{name}%s\\x1b[2J' is running\n"
        "  hint: to list the running sandboxes, run 'brokerctl status'\n"
    )


@pytest.mark.parametrize(
    ("arguments", "begin"),
    [
        (["help", "all"], "Usage: brokerctl VERB"),
        (["stop", "--help"], "Usage: brokerctl stop"),
        (["stop", "--fooo"], "error: No such option"),
    ],
)
def test_verb_prints_english_to_a_german_user(arguments, begin):
    german = {**os.environ, "LANG": "de_DE.UTF-8", "LANGUAGE": "de"}
    program = [sys.executable, "-m", "broker.cli.app", *arguments]
    done = subprocess.run(
        program, check=False, env=german, capture_output=True, text=True
    )
    assert (done.stdout or done.stderr).strip().startswith(begin)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 entries"), (1, "1 entry"), (2, "2 entries")]
)
def test_count_has_the_noun_in_its_form(number, text):
    assert render.count(number, "entry", "entries") == text
    assert render.count(number, "rule") == f"{number} rule{'s' * (number != 1)}"
