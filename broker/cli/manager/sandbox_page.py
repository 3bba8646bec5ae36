"""A sandbox's page: its state, what it may do, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from broker.cli.manager.following import SandboxRow
from broker.cli.manager.permissions import PermissionRow
from broker.cli.manager.toolkit import Gtk
from broker.cli.manager.widgets import (
    action_row,
    button,
    group,
    label,
    memory_words,
    page_of,
)
from broker.cli.sandboxes.settings import SETTINGS, Setting, shown, words_of
from policy.records.model import Record

SHOWN_SETTINGS: Final = (
    "colour",
    "title",
    "memory",
    "autostart",
    "fullscreen",
    "class",
)
"""Settings beside the permissions; each kind of sandbox shows its own."""


class SandboxActions(Protocol):
    """Actions that the page requests from its window, which reports failures."""

    def verb(self, *words: str) -> None:
        """Start a verb that reports by notifications."""

    def change(self, record: str, setting: str, value: str) -> None:
        """Change a setting after its preview was confirmed."""

    def remove(self, record: str) -> None:
        """Remove a record after the losses were confirmed."""

    def open_file(self, path: Path) -> None:
        """Open a file in the desktop's editor."""


def sandbox_page(
    row: SandboxRow,
    record: Record | None,
    permissions: Sequence[PermissionRow],
    actions: SandboxActions,
) -> Any:
    """Return the page of a sandbox, whose record may be missing or have an error."""
    groups = [_state(row, actions)]
    if row.broken:
        groups.append(group("Its record has an error", [action_row(row.broken, "")]))
    groups.append(
        group(
            "What it may do",
            [_permission(row, one, actions) for one in permissions],
            "Nothing is known of it while its record has an error.",
        )
    )
    if record is not None:
        groups += [_settings(record, actions), _record(record, row, actions)]
    return page_of(groups)


def _state(row: SandboxRow, actions: SandboxActions) -> Any:
    words = [row.state, memory_words(row.memory)]
    status = row.status
    if status is not None:
        words += [program.name for program in status.programs[:5]]
        if status.network is not None and status.network.flows:
            words.append(f"{status.network.flows} network flows")
        if status.image_age:
            words.append(f"image of {status.image_age / 86400:.0f} days ago")
        words += [*status.devices[:5], *status.folders[:5]]
    name = row.name
    runs = status is not None
    buttons = Gtk.Box(spacing=6, valign=Gtk.Align.CENTER)
    rows = (
        ("Start", not runs and not row.broken, ("menu", "start", name)),
        ("Terminal", not row.broken, ("menu", "terminal", name)),
        ("Files", not row.broken, ("menu", "files", name)),
        ("Stop", runs, ("menu", "stop", name)),
    )
    for text, possible, verb in rows:
        if possible:
            buttons.append(button(text, partial(actions.verb, *verb), about=name))
    state = action_row(" · ".join(filter(None, words)), "")
    state.add_suffix(buttons)
    return group(row.title, [state])


def _permission(row: SandboxRow, one: PermissionRow, actions: SandboxActions) -> Any:
    title = one.permission.title
    made = action_row(title, one.sentence())
    made.add_prefix(
        Gtk.Image(
            icon_name={
                "allow": "emblem-ok-symbolic",
                "ask": "dialog-question-symbolic",
            }.get(one.verdict, "action-unavailable-symbolic")
        )
    )
    if one.values:
        setting = one.permission.setting
        made.add_suffix(
            _choice(
                f"{title} of {row.name}",
                one.values,
                one.value,
                lambda value: actions.change(row.record, setting, value),
            )
        )
    elif one.fixed:
        place = Path(one.where.rsplit(":", 2)[0])
        if place.is_absolute() and os.access(place, os.W_OK):
            made.add_suffix(
                button("Edit rules", lambda: actions.open_file(place), about=title)
            )
        made.set_tooltip_text(f"{one.where}\n{one.fixed}")
    return made


def _choice(
    name: str, values: Sequence[str], value: str, chosen: Callable[[str], None]
) -> Any:
    """Return a switch or a list; a choice that is not confirmed leaves it at ``value``."""
    if set(values) == {"on", "off"}:
        return _switch(name, value, chosen)
    found = Gtk.DropDown.new_from_strings(list(values))
    found.set_valign(Gtk.Align.CENTER)
    present = values.index(value) if value in values else Gtk.INVALID_LIST_POSITION
    found.set_selected(present)
    found.update_property([Gtk.AccessibleProperty.LABEL], [name])

    def changed(_down: Any, _what: Any) -> None:
        place = found.get_selected()
        if place not in {present, Gtk.INVALID_LIST_POSITION}:
            # The page is shown anew after the change; until then it shows what holds.
            found.set_selected(present)
            chosen(values[place])

    found.connect("notify::selected", changed)
    return found


def _switch(name: str, value: str, chosen: Callable[[str], None]) -> Any:
    found = Gtk.Switch(active=value == "on", valign=Gtk.Align.CENTER)
    found.update_property([Gtk.AccessibleProperty.LABEL], [name])

    def flipped(_switch: Any, on: bool) -> bool:  # noqa: FBT001 -- GTK's signal
        if on != (value == "on"):
            # Handled: the page is shown anew after the change, and shows what holds until then.
            chosen("on" if on else "off")
            found.set_active(value == "on")
        return True

    found.connect("state-set", flipped)
    return found


def _settings(record: Record, actions: SandboxActions) -> Any:
    rows = []
    for name in SHOWN_SETTINGS:
        setting = SETTINGS[name]
        if setting.key.startswith("launch.") and setting.key not in record.values:
            continue
        rows.append(_setting(record, name, setting, actions))
    return group("Settings", rows)


def _setting(
    record: Record, name: str, setting: Setting, actions: SandboxActions
) -> Any:
    value = shown(setting, record)
    where = record.places.get(setting.key) or "default"
    made = action_row(f"{name.capitalize()}: {setting.help}", where)
    values = words_of(setting)
    if values:
        made.add_suffix(
            _choice(
                f"{name} of {record.name}",
                values,
                value,
                lambda word: actions.change(record.name, name, word),
            )
        )
        return made
    entry = Gtk.Entry(text=value, valign=Gtk.Align.CENTER, width_chars=10)
    entry.update_property([Gtk.AccessibleProperty.LABEL], [f"{name} of {record.name}"])
    entry.connect(
        "activate", lambda one: actions.change(record.name, name, one.get_text())
    )
    made.add_suffix(entry)
    return made


def _record(record: Record, row: SandboxRow, actions: SandboxActions) -> Any:
    edit = button("Edit", lambda: actions.open_file(record.source), about="record")
    file = action_row("Record", str(record.source))
    file.add_suffix(edit)
    gone = action_row("Remove this sandbox", "Its home goes with it, if it has one.")
    gone.add_suffix(
        button(
            "Remove…",
            lambda: actions.remove(record.name),
            "destructive-action",
            about=row.name,
        )
    )
    return group("Record", [file, gone])


def sandbox_line(row: SandboxRow, start_or_stop: Callable[[], None]) -> Any:
    """Return a sandbox's line in the list."""
    from broker.cli.manager.widgets import square

    line = Gtk.Box(
        spacing=12, margin_top=8, margin_bottom=8, margin_start=12, margin_end=12
    )
    line.append(square(row.colour))
    names = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, hexpand=True)
    names.append(label(row.name, "heading"))
    words = (
        row.title if row.title != row.name else "",
        row.state,
        memory_words(row.memory),
    )
    names.append(label(" · ".join(filter(None, words)), "dim-label"))
    line.append(names)
    if not row.broken:
        text = "Start" if row.status is None else "Stop"
        line.append(button(text, start_or_stop, about=row.name))
    return line
