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
    """Configure the dialogs of Vitrail."""


@command.command()
@click.argument("words", nargs=-1)
@click.option("--new", is_flag=True, help="Generate a new random phrase.")
def phrase(words: tuple[str, ...], *, new: bool) -> None:
    """Show your secret phrase, or set it to WORDS.

    Every dialog of Vitrail shows the phrase, so a sandbox cannot imitate a dialog.  If
    there is no phrase yet, a random one is generated.

    Exit code: 0 done, 1 the phrase is invalid or cannot be read, 2 usage error.
    """
    if words and new:
        raise click.UsageError("specify either the words of the phrase or --new")
    paths = offline_paths()
    try:
        if words or new:
            write_phrase(paths, " ".join(words) or new_phrase())
        known = ensure_phrase(paths)
    except OSError as error:
        raise SetupError(
            f"cannot write the phrase to {phrase_file(paths)}: {render.cause(error)}",
            hint="check that you own its directory and that the disk has free space",
        ) from error
    if not known:
        raise SetupError(
            f"cannot use the phrase in {phrase_file(paths)}: the file cannot be "
            "read, contains no valid phrase, or can be accessed by other users",
            hint="to generate a new phrase, run 'brokerctl prompt phrase --new'",
        )
    sys.stdout.write(f"{known}\n")
    render.note(
        "Every dialog of Vitrail shows this phrase.  Do not reveal it to people or "
        "sandboxes."
    )
