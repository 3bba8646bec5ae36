"""``brokerctl clipboard``: the clipboard between sandboxes, and its chords."""

from __future__ import annotations

import sys

import msgspec
import rich_click as click

from broker.cli import render
from broker.cli.run.connect import ask, offline_paths
from broker.core.clipboard.chord_settings import TEXTS, ChordChoice, chosen, load_choice
from broker.core.clipboard.chord_settings import save_choice as save
from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.ipc.control.api import ClipboardStatus, Nothing
from broker.ipc.control.methods import CLIPBOARD, CLIPBOARD_CHORDS, CLIPBOARD_CLEAR
from broker.viewer.clipboard.outcomes import in_words


@click.group("clipboard")
def command() -> None:
    """Copy and paste between sandboxes with secure key chords."""


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(*, as_json: bool) -> None:
    """Show the owner of the content, pending pastes, and the chords.

    The content itself is never shown.

    Exit code: 0 done, 1 no broker is running or chords do not work in a sandbox.
    """
    found = ask(CLIPBOARD, Nothing())
    if as_json:
        render.json_line(msgspec.to_builtins(found))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines(found)))
    if found.troubles or found.problem:
        sys.exit(1)


@command.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def clear(*, as_json: bool) -> None:
    """Erase the copied content, and withdraw content that can still be pasted.

    Applications that have read the content keep it, as does a clipboard history of the
    desktop.

    Exit code: 0 done, 1 no broker is running.
    """
    ask(CLIPBOARD_CLEAR, Nothing())
    if as_json:
        render.json_line({"cleared": True})
    else:
        render.note("cleared the clipboard between sandboxes")


@command.command()
@click.argument("preset", required=False, type=click.Choice(sorted(TEXTS)))
@click.option(
    "--copy",
    "copy_chord",
    default="",
    metavar="CHORD",
    help="Key chord that copies, such as 'Super+Alt+C'; requires --paste.",
)
@click.option(
    "--paste",
    "paste_chord",
    default="",
    metavar="CHORD",
    help="Key chord that pastes, such as 'Super+Alt+V'; requires --copy.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def chords(
    preset: str | None, copy_chord: str, paste_chord: str, *, as_json: bool
) -> None:
    """Show or set the chords: a PRESET, or --copy and --paste.

    'vitrail' is Super+Shift+C and Super+Shift+V.  'qubes' is Ctrl+Shift+C and
    Ctrl+Shift+V, which terminals in sandboxes then cannot receive.  'input-method'
    is Super+Ctrl+C and Super+Ctrl+V: on GNOME, ibus takes chords that have Shift
    while it composes text (Pinyin).  The setting takes effect in a running broker
    immediately.

    Exit code: 0 done, 1 the chords are invalid or cannot be saved, 2 usage error.
    """
    paths = offline_paths()
    if preset or copy_chord or paste_chord:
        try:
            wanted = chosen(preset or "", copy_chord, paste_chord)
            path = save(paths, wanted)
        except OSError as error:
            raise SetupError(
                f"cannot save the chords in {paths.config[0]}: {render.cause(error)}"
            ) from error
        _tell_broker()
        if not as_json:
            render.note(f"wrote {path}")
    _show(load_choice(paths), as_json=as_json)


def _tell_broker() -> None:
    try:
        ask(CLIPBOARD_CHORDS, Nothing())
    except SetupError:
        render.note("no broker is running; the next broker will use these chords")


def _show(choice: ChordChoice, *, as_json: bool) -> None:
    found = {
        "copy": choice.copy,
        "paste": choice.paste,
        "preset": choice.preset,
        "file": choice.file,
        "problem": choice.problem,
    }
    if as_json:
        render.json_line(found)
    else:
        which = f"  ({choice.preset})" if choice.preset else ""
        sys.stdout.write(f"copy   {choice.copy}{which}\npaste  {choice.paste}\n")
    if choice.problem:
        render.note(printable(choice.problem))
        sys.exit(1)


def lines(found: ClipboardStatus) -> list[str]:
    """The status as text."""
    out = ["there is no content to paste"]
    if found.source:
        out = [
            (
                f"{in_words(found.size)} from {found.source}: {', '.join(found.types)} "
                f"(erased in {render.seconds(found.seconds)})"
            )
        ]
    out += [
        f"{offer.source} -> {offer.target}: may be pasted (expires in "
        f"{render.seconds(offer.seconds)})"
        for offer in found.offered
    ]
    if found.exported:
        out.append(f"your clipboard contains a copy from {found.exported}")
    if found.focused:
        out.append(f"the keyboard focus is in {found.focused}")
    out.append(f"copy {found.copy_chord}, paste {found.paste_chord}")
    out += [f"chords do not work in {t.sandbox}: {t.reason}" for t in found.troubles]
    if found.problem:
        out.append(found.problem)
    return [printable(line, 1000) for line in out]
