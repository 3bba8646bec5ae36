"""``brokerctl --help`` begins with ten verbs; ``help all`` has every verb."""

from __future__ import annotations

import click
import pytest

from broker.cli.overview import FIRST
from broker.cli.verbs import GROUPS, VERBS, app


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """Return the lines that a command line prints."""
    try:
        app.main(list(words), prog_name="brokerctl", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        return error.format_message().splitlines()
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_ten_verbs_come_first_and_fit_a_small_terminal(capsys, words):
    lines = shown(capsys, *words)
    verbs = [line.split()[0] for line in lines if line.startswith("  ")]
    assert [verb for verb in verbs if verb in VERBS] == list(FIRST)
    assert len(FIRST) == 10
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any("brokerctl help all" in line for line in lines)


def test_help_all_names_each_verb_in_its_group(capsys):
    lines = shown(capsys, "help", "all")
    for group, verbs in GROUPS.items():
        after = lines[lines.index(f"{group}:") + 1 :]
        block = after[: after.index("")]
        named = [line.split()[0] for line in block if not line.startswith("   ")]
        assert named == list(verbs)
