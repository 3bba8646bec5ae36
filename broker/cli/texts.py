"""Texts of brokerctl in the user's language.

The short help, the help of the ten first verbs, 'list', the panel's menu, and the
notifications about what a menu entry starts.

The other verbs, all errors, and everything that scripts read are English.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from broker.core.language.catalogue import Catalogue, languages

_catalogue = Catalogue("verbs", languages(os.environ))


def tr(message: str, /, **values: object) -> str:
    """Return a message in the user's language, with values for its ``{name}``."""
    return _catalogue.text(message, **values)


def trn(one: str, many: str, number: int, /, **values: object) -> str:
    """Return the form of a message for a number, which is its ``{number}``."""
    return _catalogue.plural(one, many, number, **values)


def help_texts(command: click.Command) -> Iterator[str]:
    """Yield the paragraphs of a verb's help, and the help of its options."""
    yield from _paragraphs(command.help or "")
    for option in _options(command):
        if option.help:
            yield option.help


def translate_help(command: click.Command) -> None:
    """Have a verb's help in the user's language."""
    if _catalogue.language == "en":
        return
    command.help = "\n\n".join(map(tr, _paragraphs(command.help or "")))
    for option in _options(command):
        if option.help:
            option.help = tr(option.help)


def _paragraphs(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]


def _options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option)]
