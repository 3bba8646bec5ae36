"""``brokerctl prompt``: the user's own phrase, by which the real dialog is known."""

from __future__ import annotations

import sys

import rich_click as click

from broker.authority.questions.phrase import (
    ensure_phrase,
    new_phrase,
    phrase_file,
    write_phrase,
)
from broker.cli import render
from broker.cli.run.connect import offline_paths
from broker.core.errors import SetupError


@click.group("prompt")
def command() -> None:
    """The dialog in which Vitrail asks you."""


@command.command()
@click.argument("words", nargs=-1)
@click.option("--new", is_flag=True, help="Generate a new random phrase.")
def phrase(words: tuple[str, ...], *, new: bool) -> None:
    """Show your secret phrase, or set it to WORDS.

    Every real dialog carries it; a picture of one in a sandbox's window cannot.
    If there is none yet, one of random words is made.

    Exit code: 0, 1 it could not be read or is not a phrase, 2 wrong call.
    """
    if words and new:
        raise click.UsageError("give either the words of the phrase or --new")
    paths = offline_paths()
    try:
        if words or new:
            write_phrase(paths, " ".join(words) or new_phrase())
        known = ensure_phrase(paths)
    except OSError as error:
        raise SetupError(
            f"cannot write {phrase_file(paths)}: {render.cause(error)}",
            hint="its directory must be yours, and its disk must have room",
        ) from error
    if not known:
        raise SetupError(
            "the stored phrase is not secret, or not a phrase",
            hint="'brokerctl prompt phrase --new' generates a new one",
        )
    sys.stdout.write(f"{known}\n")
    render.note(
        "Every dialog of Vitrail shows it.  Keep it secret from people and sandboxes."
    )
