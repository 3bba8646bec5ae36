"""The manual page knows every verb and option, and every one has help."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from broker.cli.verbs import VERBS

PAGE = (Path(__file__).parents[3] / "docs" / "brokerctl.1.md").read_text()


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):
            inner = command.get_command(context, word)
            yield from commands(f"{name} {word}", inner)
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield name, command


def section(verb: str) -> str:
    parts = re.split(r"^### ", PAGE, flags=re.MULTILINE)
    return "".join(part for part in parts if part.split()[:1] == [verb])


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_verb(verb: str) -> None:
    module = importlib.import_module(f"broker.cli.{VERBS[verb]}")
    text = section(verb)
    assert text, f"docs/brokerctl.1.md has no section '### {verb}'"
    for name, command in commands(verb, module.command):
        assert command.help, f"{name} has no help"
        assert name.split()[-1] in text
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name}: {parameter.opts} has no help"
                for option in (*parameter.opts, *parameter.secondary_opts):
                    assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), (
                        name,
                        option,
                    )
