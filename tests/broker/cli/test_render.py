"""What every verb prints."""

from __future__ import annotations

import json

from broker.cli import render, texts
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


def test_an_error_of_a_broker_is_printed_in_the_users_language(capsys, monkeypatch):
    """A command in it stays as it is typed, and what begins the line as it is read."""
    error = RefusedError(
        "no sandbox '{name}%s\x1b[2J' is running",
        hint="to list the running sandboxes, run 'brokerctl status'",
    )
    render.error(error)
    english = capsys.readouterr().err
    assert english == (
        "error: no sandbox '{name}%s\\x1b[2J' is running\n"
        "  hint: to list the running sandboxes, run 'brokerctl status'\n"
    )
    environ = {"LANG": "de_DE.UTF-8"}
    # Other tests of this process read English: both are put back.
    for name in ("language", "_found"):
        monkeypatch.setattr(texts.catalogue, name, getattr(texts.catalogue, name))
    texts.catalogue.choose(texts.wanted(["stop", "work"], environ))
    error = RefusedError(
        "no sandbox 'work' is running", hint=error.hint, where="x.policy:3"
    )
    render.error(error)
    assert capsys.readouterr().err == (
        "Fehler: x.policy:3: es läuft keine Sandbox „work“\n"
        "  Hinweis: um die laufenden Sandboxen zu sehen, rufen Sie 'brokerctl status' auf\n"
    )
    assert str(error) == "x.policy:3: no sandbox 'work' is running"
    texts.catalogue.choose(texts.wanted(["stop", "--json", "work"], environ))
    render.error(error)
    assert capsys.readouterr().err.splitlines()[0] == f"error: {error}"
