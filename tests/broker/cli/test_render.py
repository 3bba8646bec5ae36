"""What every verb prints."""

from __future__ import annotations

import json

from broker.cli import render


def test_a_line_of_json_has_nothing_that_drives_a_terminal(capsys):
    """As ``run --json`` shows what a guest's program printed."""
    value = {"output": "".join(map(chr, range(0x20))) + "\x7f\x85\x9b2J\u202e\u200b"}
    render.json_line(value)
    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert said.endswith("\n")
    assert said[:-1].isascii()
    assert said[:-1].isprintable()
