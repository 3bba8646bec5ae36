"""Dialogs with entries: a name, a file, a passphrase."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker.cli.manager.toolkit import Adw, Gtk
from broker.cli.manager.verb_calls import dialog_text
from broker.cli.manager.widgets import button, name_control
from broker.cli.manager.words import shown, tr

_REPEATED: Final = "repeated"
_LABELS: Final = {
    "name": tr("Name"),
    "label": tr("Label"),
    "file": tr("File"),
    "passphrase": tr("Passphrase"),
}
"""What each field is called."""


@dataclass(frozen=True, slots=True)
class FormField:
    """An entry of a form.

    ``secret``: a passphrase; ``twice``: it is new, so it is typed twice.  ``file``: ``open`` or
    ``save``, with a button that shows the desktop's own chooser.
    """

    name: str
    value: str = ""
    hint: str = ""
    secret: bool = False
    twice: bool = False
    file: str = ""


def ask_form(
    parent: Any,
    title: str,
    text: str,
    fields: Sequence[FormField],
    yes: str,
    *,
    then: Callable[[Mapping[str, str]], None],
) -> None:
    """Ask for values in a dialog; ``then`` gets them by name after ``yes`` alone.

    ``yes`` is insensitive until each field has a value, and passphrases are equal.
    """
    dialog = Adw.MessageDialog(
        transient_for=parent, modal=True, heading=shown(title), body=dialog_text(text)
    )
    dialog.add_response("no", tr("Cancel"))
    dialog.add_response("yes", yes)
    dialog.set_close_response("no")
    dialog.set_response_appearance("yes", Adw.ResponseAppearance.SUGGESTED)
    dialog.set_default_response("yes")
    entries: dict[str, Any] = {}

    def values() -> dict[str, str]:
        return {name: entry.get_text() for name, entry in entries.items()}

    def look(_entry: object = None) -> None:
        dialog.set_response_enabled("yes", complete(fields, values()))

    rows = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=6)
    for one in fields:
        for name, said in _entries_of(one):
            entries[name] = _entry(one, said)
            entries[name].connect("changed", look)
            rows.append(Gtk.Label(label=said, xalign=0, css_classes=["dim-label"]))
            rows.append(_with_chooser(parent, one, entries[name]))
    dialog.set_extra_child(rows)
    look()

    def answered(_dialog: Any, response: str) -> None:
        given = values()
        if response == "yes" and complete(fields, given):
            then({one.name: given[one.name] for one in fields})

    dialog.connect("response", answered)
    dialog.present()
    next(iter(entries.values())).grab_focus()


def complete(fields: Sequence[FormField], given: Mapping[str, str]) -> bool:
    """Return whether all fields have values, and repeated passphrases are equal."""
    return all(
        given[one.name] != ""
        and (not one.twice or given[one.name] == given[one.name + _REPEATED])
        for one in fields
    )


def _entries_of(field: FormField) -> list[tuple[str, str]]:
    """Return the names of a field's entries, and their labels."""
    found: list[tuple[str, str]] = [(field.name, _LABELS[field.name])]
    if field.twice:
        found.append((field.name + _REPEATED, tr("Passphrase again")))
    return found


def _entry(field: FormField, said: str) -> Any:
    kind = Gtk.PasswordEntry if field.secret else Gtk.Entry
    entry = kind(activates_default=True, placeholder_text=field.hint)
    entry.set_text(field.value)
    entry.set_hexpand(True)
    name_control(entry, said)
    return entry


def _with_chooser(parent: Any, field: FormField, entry: Any) -> Any:
    """Return an entry, for a file with a button beside it."""
    if not field.file:
        return entry

    def choose() -> None:
        action = Gtk.FileChooserAction.OPEN
        if field.file == "save":
            action = Gtk.FileChooserAction.SAVE
        chooser = Gtk.FileChooserNative.new(
            _LABELS[field.name], parent, action, None, None
        )

        def chosen(_chooser: Any, response: int) -> None:
            file = chooser.get_file()
            if response == Gtk.ResponseType.ACCEPT and file is not None:
                entry.set_text(file.get_path() or "")

        chooser.connect("response", chosen)
        chooser.show()

    box = Gtk.Box(spacing=6)
    box.append(entry)
    box.append(button(tr("Browse…"), choose, about=_LABELS[field.name]))
    return box
