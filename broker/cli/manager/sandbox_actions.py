"""Actions on a sandbox: a dialog with what would be lost, then the verb of brokerctl."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from broker.cli.manager.forms import FormField, ask_form
from broker.cli.manager.toolkit import Gio
from broker.cli.manager.verb_calls import VerbResult
from broker.cli.manager.verb_runner import VerbRunner
from broker.cli.manager.widgets import ask, show_lines
from broker.cli.manager.words import ManagerText, known, tr
from broker.cli.menu.in_terminal import in_terminal

_STDIN = "/dev/stdin"
_SUFFIX = ".vitrail-backup"


Toast = Callable[[str, Callable[[], None] | None], None]
"""Shows a line for a moment, with *Undo* if that can be done."""
_TAKES: Final = {
    "windows": "off",
    "sound": "off",
    "microphone": "deny",
    "network": "none",
}
"""The value of a permission with which the sandbox has the least."""
_OF_THE_USER: Final = frozenset({"colour", "memory", "autostart"})
"""Settings by which no sandbox reaches more."""


def gives_nothing(setting: str, value: str) -> bool:
    """Return whether a sandbox has no more than before with a setting at a value."""
    return setting in _OF_THE_USER or _TAKES.get(setting) == value


class SandboxActions:
    """What can be done with a sandbox.

    ``go`` shows a page by its name, ``history`` the events of a sandbox and of a kind.
    """

    def __init__(
        self,
        parent: Any,
        verbs: VerbRunner,
        *,
        go: Callable[[str], None],
        toast: Toast,
        history: Callable[[str, str], None],
    ) -> None:
        self._parent = parent
        self._history = history
        self._toast = toast
        self._verbs = verbs
        self._go = go

    def start(self, *words: str) -> None:
        """Start a verb that reports by notifications."""
        self._verbs.start(*words)

    def suspend(self, verb: str, sandbox: str) -> None:
        """Run ``suspend`` or ``resume``; nothing is lost by either."""
        self._verbs.run(verb, "--", sandbox)

    def open_file(self, path: Path) -> None:
        """Open a file in the desktop's editor."""
        Gio.AppInfo.launch_default_for_uri(path.as_uri(), None)

    @staticmethod
    def may_edit(path: Path) -> bool:
        """Return whether the user may write to a file."""
        return os.access(path, os.W_OK)

    # -- settings -----------------------------------------------------------------

    def change(self, record: str, setting: str, value: str, was: str) -> None:
        """Change a setting from the value ``was``.

        Which lines and decisions would change is shown first, and confirmed, unless the
        change gives the sandbox nothing: then it is done at once, and can be undone.
        """
        words = ("set", "--yes", "--", record, setting, value)
        if gives_nothing(setting, value):

            def undo() -> None:
                self._verbs.run("set", "--yes", "--", record, setting, was)

            self._verbs.run(
                *words,
                done=lambda _result: self._toast(
                    tr(
                        "{name}: {setting} is {value}",
                        name=record,
                        setting=known(setting),
                        value=known(value),
                    ),
                    undo if was else None,
                ),
            )
            return
        title = tr(
            "Set {setting} of {name} to {value}?",
            setting=known(setting),
            name=record,
            value=known(value),
        )

        def preview(result: VerbResult) -> None:
            text = "\n".join(filter(None, (result.words, result.output)))
            ask(
                self._parent, title, text, tr("Change"), lambda: self._verbs.run(*words)
            )

        self._verbs.look("set", "--check", "--", record, setting, value, done=preview)

    # -- copies and homes ---------------------------------------------------------

    def clone(self, record: str, *, home: bool) -> None:
        """Ask for a name, and copy a record, and its home if it has one."""
        text = (
            tr(
                "The new sandbox has a copy of the record and the home of {name}, without "
                "its snapshots. Nothing is lost; the copy needs as much room as the home.",
                name=record,
            )
            if home
            else tr(
                "The new sandbox has a copy of the record of {name}, which has no "
                "home. Nothing is lost.",
                name=record,
            )
        )

        def copy(given: Mapping[str, str]) -> None:
            name = given["name"].strip()
            words = ("new", "--from", record, "--", name)
            if home:
                words = ("sandbox", "clone", "--", record, name)
            self._verbs.run(
                *words,
                title=tr("copy {name}", name=record),
                done=lambda _result: self._go(name),
            )

        fields = [FormField("name", f"{record}-copy")]
        title = tr("Clone {name}", name=record)
        ask_form(self._parent, title, text, fields, tr("Clone"), then=copy)

    def rename(self, record: str) -> None:
        """Ask for another name, and rename a sandbox with a home."""
        text = tr(
            "Record, home and snapshots of {name} get the name. Rules that name {name} "
            "are not changed, and no longer apply to it.",
            name=record,
        )

        def change(given: Mapping[str, str]) -> None:
            name = given["name"].strip()
            self._verbs.run(
                *("sandbox", "rename", "--", record, name),
                done=lambda _result: self._go(name),
            )

        fields = [FormField("name", record)]
        title = tr("Rename {name}", name=record)
        ask_form(self._parent, title, text, fields, tr("Rename"), then=change)

    def snapshot(self, record: str) -> None:
        """Ask for a label, and save a copy of a home."""

        def save(given: Mapping[str, str]) -> None:
            words = ("sandbox", "snapshot", "--", record, given["label"].strip())
            self._verbs.run(*words, title=tr("snapshot of {name}", name=record))

        label = FormField("label", time.strftime("s%Y%m%d-%H%M%S"))
        text = tr("The home is copied as it is now. Nothing is lost.")
        title = tr("Snapshot of {name}", name=record)
        ask_form(self._parent, title, text, [label], tr("Save"), then=save)

    def restore(self, record: str, label: str) -> None:
        """Ask, with what would be lost, and replace a home by its snapshot."""
        words = ("sandbox", "restore", record, label)
        title = tr("Restore {name} from {label}?", name=record, label=label)
        self._lose(words, title, tr("Restore"))

    def empty(self, record: str) -> None:
        """Ask, with what would be lost, and empty a home."""
        title = tr("Empty the home of {name}?", name=record)
        self._lose(("sandbox", "reset", record), title, tr("Empty"))

    def remove(self, record: str) -> None:
        """Ask, with what would be lost, and remove a sandbox."""
        title = tr("Remove {name}?", name=record)
        self._lose(("sandbox", "remove", record), title, tr("Remove"))

    def remove_snapshot(self, record: str, label: str) -> None:
        """Ask, and remove a snapshot."""
        words = ("sandbox", "snapshot", record, label, "--remove")
        ask(
            self._parent,
            tr("Remove snapshot {label}?", label=label),
            tr(
                "This would be lost: the home of {name} as it was in snapshot {label}. "
                "The home itself stays.",
                name=record,
                label=label,
            ),
            tr("Remove"),
            lambda: self._verbs.run(*words),
            lossy=True,
        )

    def _lose(self, words: tuple[str, ...], title: ManagerText, yes: str) -> None:
        """Have a verb say what would be lost; run it after a confirmation."""

        def confirm(lost: str) -> None:
            ask(
                self._parent,
                title,
                tr("This would be lost: {lost}.", lost=lost),
                yes,
                lambda: self._verbs.run(
                    *words, "--yes", title=ManagerText(title.strip("¿?؟ \u00a0\u202f"))
                ),
                lossy=True,
            )

        self._verbs.look_up(*words, "--check", key="lost", done=confirm)

    # -- backups ------------------------------------------------------------------

    def back_up(self, record: str) -> None:
        """Ask for a file and a passphrase, and write a backup."""
        day = time.strftime("%Y-%m-%d")
        file = Path.home() / f"{record}-{day}{_SUFFIX}"
        text = tr(
            "The home and the record are written to one encrypted file, snapshots are "
            "not. Without the passphrase nobody can read it, and nobody can reset it. "
            "Nothing is lost: an existing file is not replaced."
        )
        fields = [
            FormField("file", str(file), file="save"),
            FormField("passphrase", secret=True, twice=True),
        ]

        def write(given: Mapping[str, str]) -> None:
            self._verbs.run(
                *("sandbox", "backup", "--passphrase-file", _STDIN),
                *("--", record, given["file"]),
                title=tr("back up {name}", name=record),
                secret=given["passphrase"].encode(),
                done=lambda result: show_lines(
                    self._parent, tr("The backup is written"), result.words
                ),
            )

        title = tr("Back up {name}", name=record)
        ask_form(self._parent, title, text, fields, tr("Back up"), then=write)

    def import_backup(self) -> None:
        """Ask for a backup, a name and its passphrase, and make a sandbox of it."""
        text = tr(
            "The backup becomes the home of a new sandbox. Its record is used if no "
            "record has the name, and if it asks for nothing on this machine beyond the "
            "sandbox itself. Nothing is lost."
        )
        fields = [
            FormField("file", file="open"),
            FormField("name"),
            FormField("passphrase", secret=True),
        ]

        def read(given: Mapping[str, str]) -> None:
            name = given["name"].strip()
            self._verbs.run(
                *("sandbox", "import", "--yes", "--passphrase-file", _STDIN),
                *("--", given["file"], name),
                title=tr("import {name}", name=name),
                secret=given["passphrase"].encode(),
                done=lambda result: show_lines(
                    self._parent, tr("The backup is imported"), result.words
                ),
            )

        title = tr("Import a backup")
        ask_form(self._parent, title, text, fields, tr("Import"), then=read)

    # -- output -------------------------------------------------------------------

    def shell(self, sandbox: str) -> None:
        """Open a shell of a sandbox in a terminal of the desktop."""
        in_terminal(("shell", sandbox), os.environ)

    def activity(self, sandbox: str) -> None:
        """Show the events of a sandbox."""
        self._history(sandbox, "")

    def logs(self, sandbox: str) -> None:
        """Show the output of a sandbox's newest program."""

        def show(result: VerbResult) -> None:
            title = tr("Output of {name}", name=sandbox)
            show_lines(self._parent, title, result.data.decode(errors="replace"))

        self._verbs.look("logs", sandbox, done=show)
