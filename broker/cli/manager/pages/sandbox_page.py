"""A sandbox's page: its state, what it may do, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from broker.cli import render
from broker.cli.images.describe import age_text
from broker.cli.manager.choices import choice
from broker.cli.manager.details import SandboxDetails, possible_actions
from broker.cli.manager.following import SandboxRow
from broker.cli.manager.pages.home_groups import copies
from broker.cli.manager.permissions import PermissionRow, short_place
from broker.cli.manager.sandbox_actions import SandboxActions
from broker.cli.manager.toolkit import Adw, Gtk
from broker.cli.manager.widgets import (
    action_row,
    button,
    group,
    label,
    line_text,
    memory_words,
    name_control,
    page_of,
    square,
)
from broker.cli.manager.words import begun, joined, known, tr, trn
from broker.cli.sandboxes.settings import SETTINGS, Setting, shown, words_of
from broker.ipc.control.api import SandboxStatus
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
MEMORY: Final = ("512M", "1G", "2G", "4G")
"""Sizes that are offered; another one is typed."""
_IN_A_LINE: Final = 5
"""Buttons for which there is room on half a screen, in German, too."""
_REVERSED: Final = {
    **dict.fromkeys((tr("Start"), tr("Stop")), "run"),
    **dict.fromkeys((tr("Suspend"), tr("Resume")), "suspend"),
}
"""A name for the buttons that take each other's place."""


def sandbox_page(
    row: SandboxRow, details: SandboxDetails, actions: SandboxActions
) -> Any:
    """Return the page of a sandbox, whose record may be missing or have an error."""
    record = details.record
    groups = [_state(row, record, actions)]
    if record is not None:
        groups.append(_settings(record, actions))
    if row.broken:
        groups.append(
            group(tr("Its record has an error"), [action_row(row.broken, "")])
        )
    groups.append(
        group(
            tr("What it may do"),
            [_permission(row, one, actions) for one in details.permissions],
            tr("Nothing is known of it while its record has an error."),
        )
    )
    if record is not None:
        groups += copies(record.name, details, actions)
        groups.append(_record(record, row, details, actions))
    return page_of(groups)


def _state(row: SandboxRow, record: Record | None, actions: SandboxActions) -> Any:
    words = [known(row.state), memory_words(row.memory)]
    status = row.status
    if status is not None:
        words += [program.name for program in status.programs[:5]]
        words += network_and_image(status)
        words += [*status.devices[:5], *status.folders[:5]]
    name = row.name
    runs = status is not None
    machine = status is not None and bool(status.accel)  # that the broker starts
    suspended = row.state == "suspended"
    usable = not row.broken
    offered = possible_actions(row, record)
    second = usable and "program" in offered
    rows = (
        (
            tr("Start"),
            usable and not runs,
            partial(actions.start, "menu", "start", name),
        ),
        (tr("Terminal"), second, partial(actions.start, "menu", "terminal", name)),
        (tr("Shell"), "shell" in offered, partial(actions.shell, name)),
        (tr("Files"), second, partial(actions.start, "menu", "files", name)),
        (tr("Output"), "output" in offered, partial(actions.logs, name)),
        (tr("Activity"), True, partial(actions.activity, name)),
        (
            tr("Suspend"),
            machine and not suspended,
            partial(actions.suspend, "suspend", name),
        ),
        (tr("Resume"), machine and suspended, partial(actions.suspend, "resume", name)),
        (tr("Stop"), runs, partial(actions.start, "menu", "stop", name)),
    )
    made = []
    for text, possible, clicked in rows:
        if possible:
            made.append(button(text, clicked, about=name))
            # What takes its place has the focus after it, too.
            made[-1].set_name(_REVERSED.get(text, made[-1].get_name()))
    buttons = _in_lines(made)
    state = action_row(joined(" · ", words), "")
    # A row of their own: beside seven buttons the state had no room.
    # It has no name to be spoken: the focus goes to the buttons.
    actions_row = Adw.PreferencesRow(child=buttons, activatable=False, focusable=False)
    return group(row.title, [state, actions_row])


def _in_lines(made: list[Any]) -> Any:
    """Return buttons in one line, or in two: half a screen is wide enough for the page.

    A Gtk.FlowBox would have one place in the order of Tab for all of them.
    """
    lines = Gtk.Box(
        orientation=Gtk.Orientation.VERTICAL,
        spacing=6,
        margin_top=8,
        margin_bottom=8,
        margin_start=12,
        margin_end=12,
    )
    each = len(made) if len(made) <= _IN_A_LINE else (len(made) + 1) // 2
    for start in range(0, len(made), each):
        line = Gtk.Box(spacing=6)
        for one in made[start : start + each]:
            line.append(one)
        lines.append(line)
    return lines


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
            choice(
                tr("{what} of {name}", what=title, name=row.name),
                one.values,
                one.value,
                lambda value: actions.change(row.record, setting, value, one.value),
            )
        )
    elif one.fixed:
        place = Path(one.where.rsplit(":", 2)[0])
        if place.is_absolute() and os.access(place, os.W_OK):
            made.add_suffix(
                button(tr("Edit rules"), lambda: actions.open_file(place), about=title)
            )
        made.set_tooltip_text(joined("\n", (one.where, one.fixed)))
    return made


def _settings(record: Record, actions: SandboxActions) -> Any:
    rows = []
    for name in SHOWN_SETTINGS:
        setting = SETTINGS[name]
        if setting.key.startswith("launch.") and setting.key not in record.values:
            continue
        rows.append(_setting(record, name, setting, actions))
    return group(tr("Settings"), rows)


def _setting(
    record: Record, name: str, setting: Setting, actions: SandboxActions
) -> Any:
    value = shown(setting, record)
    where = record.places.get(setting.key)
    place = short_place(where) if where else tr("default")
    said = known(name)
    title = tr("{what} of {name}", what=said, name=record.name)
    made = action_row(begun(said), joined(" · ", (tr(setting.help), place)))
    values = words_of(setting) or (MEMORY if name == "memory" else ())
    if values:
        made.add_suffix(
            choice(
                title,
                values,
                value,
                lambda word: actions.change(record.name, name, word, value),
            )
        )
    if values and name != "memory":
        return made
    entry = Gtk.Entry(text=value, valign=Gtk.Align.CENTER)
    entry.set_width_chars(6 if values else 16)
    entry.set_max_width_chars(6 if values else 16)
    name_control(entry, title)
    entry.connect(
        "activate",
        lambda one: actions.change(record.name, name, one.get_text(), value),
    )
    made.add_suffix(entry)
    return made


def _record(
    record: Record, row: SandboxRow, details: SandboxDetails, actions: SandboxActions
) -> Any:
    edit = button(
        tr("Edit"), lambda: actions.open_file(record.source), about=tr("record")
    )
    file = action_row(tr("Record"), str(record.source))
    file.add_suffix(edit)
    copy = action_row(tr("Clone"), tr("A new sandbox with the same record."))
    kept = details.home is not None
    copy.add_suffix(
        button(
            tr("Clone…"),
            lambda: actions.clone(record.name, home=kept),
            about=record.name,
        )
    )
    gone = action_row(
        tr("Remove this sandbox"), tr("Its home goes with it, if it has one.")
    )
    gone.add_suffix(
        button(
            tr("Remove…"),
            lambda: actions.remove(record.name),
            "destructive-action",
            about=row.name,
        )
    )
    return group(tr("Record"), [file, copy, gone])


def network_and_image(status: SandboxStatus) -> list[str]:
    """Return the traffic of a sandbox and the age of its image in words, if it has them."""
    words: list[str] = []
    network = status.network
    if network is not None and network.flows:
        rate = network.rate_from_sandbox + network.rate_to_sandbox
        flows = trn("{number} flow", "{number} flows", network.flows)
        words.append(joined(", ", (flows, f"{render.size(int(rate))}/s")))
    if status.image_age:
        words.append(tr("image of {age}", age=age_text(status.image_age)))
    return words


class SandboxLine:
    """A sandbox's line in the list; ``act`` starts or stops it."""

    def __init__(self, row: SandboxRow, act: Callable[[], None]) -> None:
        self._row = row
        self.widget = Gtk.Box(
            spacing=12, margin_top=8, margin_bottom=8, margin_start=12, margin_end=12
        )
        self.widget.append(square(row.colour))
        names = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, hexpand=True)
        names.append(label(row.name, "heading"))
        self._words = label("", "dim-label")
        names.append(self._words)
        self.widget.append(names)
        self._load = Gtk.Label(visible=False, css_classes=["dim-label", "numeric"])
        self.widget.append(self._load)
        text = tr("Start") if row.status is None else tr("Stop")
        self._button = button(text, act, about=row.name)
        if not row.broken:
            self.widget.append(self._button)
        self.update(row)

    def update(self, row: SandboxRow) -> bool:
        """Show a change of the row; False if it needs another line."""
        if _kind_of(row) != _kind_of(self._row):
            return False
        self._row = row
        words = (
            row.title if row.title != row.name else "",
            known(row.state),
            memory_words(row.memory),
            *(network_and_image(row.status) if row.status is not None else ()),
        )
        text = line_text(joined(" · ", words))
        self._words.set_label(text)
        # GTK 4.8 has no name for an item of a list: the focus goes to its button.
        self._button.update_property([Gtk.AccessibleProperty.DESCRIPTION], [text])
        return True

    def show_load(self, percent: int | None) -> None:
        """Show the share of one processor that it used; None: not known."""
        self._load.set_label(
            line_text(tr("processor {percent} %", percent=percent or 0))
        )
        self._load.set_visible(percent is not None)


def _kind_of(row: SandboxRow) -> tuple[object, ...]:
    """Return what a line is made for."""
    return row.name, row.colour, row.status is None, row.broken
