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
from broker.cli.texts import tr
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
        raise click.UsageError(tr("specify either the words of the phrase or --new"))
    paths = offline_paths()
    try:
        if words or new:
            write_phrase(paths, " ".join(words) or new_phrase())
        known = ensure_phrase(paths)
    except OSError as error:
        raise SetupError(
            tr(
                "cannot write the phrase to {paths}: {cause}",
                paths=phrase_file(paths),
                cause=render.cause(error),
            ),
            hint=tr(
                "check that you own its directory and that the disk has free space"
            ),
        ) from error
    if not known:
        raise SetupError(
            tr(
                "cannot use the phrase in {paths}: the file cannot be read, "
                "contains no valid phrase, or can be accessed by other users",
                paths=phrase_file(paths),
            ),
            hint=tr("to generate a new phrase, run 'brokerctl prompt phrase --new'"),
        )
    sys.stdout.write(f"{known}\n")
    render.note(
        tr(
            "Every dialog of Vitrail shows this phrase.  Do not reveal it to "
            "people or sandboxes."
        )
    )
