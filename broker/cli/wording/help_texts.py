"""The help of verbs in the user's language, also what click and rich add to it."""

from __future__ import annotations

from collections.abc import Iterator

import click

from broker.cli.texts import catalogue, tr
from broker.core.language.catalogue import mark

_FIXED = (mark("Show this message and exit."), mark("Options"), mark("Commands"))
"""Click's help of ``--help``, and the titles of rich's panels."""


def help_texts(command: click.Command) -> Iterator[str]:
    """Yield the paragraphs of a verb's help, and the help of its options."""
    yield from _paragraphs(command.help or "")
    for option in _options(command):
        if option.help:
            yield option.help


def translate_help(command: click.Command, parent: click.Context) -> None:
    """Have a verb's help in the user's language, and that of a group's verbs."""
    if catalogue.language == "en":
        return
    command.help = "\n\n".join(map(tr, _paragraphs(command.help or "")))
    context = click.Context(command, info_name=command.name, parent=parent)
    for option in (*_options(command), command.get_help_option(context)):
        if option is not None and option.help:
            option.help = tr(option.help)
    if isinstance(command, click.Group):
        for verb in command.commands.values():
            translate_help(verb, context)


def translate_panels() -> None:
    """Have the titles of help in the user's language; loads rich_click."""
    if catalogue.language == "en":
        return
    from rich_click import rich_click  # late: most verbs print no help

    rich_click.OPTIONS_PANEL_TITLE = tr("Options")
    rich_click.COMMANDS_PANEL_TITLE = tr("Commands")


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option)]
