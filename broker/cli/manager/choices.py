"""Switches and lists for a setting: they show the present value until it has changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from broker.cli.manager.toolkit import Gtk
from broker.cli.manager.widgets import drop_down, name_control, square
from broker.cli.manager.words import joined, known
from policy.records.patterns import PALETTE

_BESIDE: Final = 4
"""Values that have buttons beside each other, a click each; of more there is a list."""


def choice(
    name: str, values: Sequence[str], value: str, chosen: Callable[[str], None]
) -> Any:
    """Return a widget for one of some values; ``chosen`` gets another than ``value``."""
    if set(values) == {"on", "off"}:
        return _switch(name, value, chosen)
    if len(values) <= _BESIDE or set(values) == {*PALETTE}:
        return _buttons(name, values, value, chosen)
    return _list(name, values, value, chosen)


def _buttons(
    name: str, values: Sequence[str], value: str, chosen: Callable[[str], None]
) -> Any:
    """Return buttons beside each other, colours as squares."""
    made = Gtk.Box(valign=Gtk.Align.CENTER, css_classes=["linked"])
    first = present = None
    for word in values:
        one = Gtk.ToggleButton(group=first, active=word == value)
        if word in PALETTE:
            one.set_child(square(PALETTE[word]))
            one.set_tooltip_text(known(word))
        else:
            one.set_label(known(word))
        name_control(one, joined(": ", [known(word), name]))
        first = first or one
        present = one if word == value else present
        made.append(one)

    def clicked(_button: Any, word: str) -> None:
        if word != value:
            # The change shows the page again; until then it shows the present value.
            if present is not None:
                present.set_active(True)
            chosen(word)

    child = made.get_first_child()
    for word in values:
        child.connect("clicked", clicked, word)
        child = child.get_next_sibling()
    return made


def _list(
    name: str, values: Sequence[str], value: str, chosen: Callable[[str], None]
) -> Any:
    """Return a drop-down list of values; ``chosen`` is given the one that is selected."""
    found = drop_down(map(known, values), name)
    present = values.index(value) if value in values else Gtk.INVALID_LIST_POSITION
    found.set_selected(present)

    def changed(_down: Any, _what: Any) -> None:
        place = found.get_selected()
        if place not in {present, Gtk.INVALID_LIST_POSITION}:
            found.set_selected(present)
            chosen(values[place])

    found.connect("notify::selected", changed)
    return found


def _switch(name: str, value: str, chosen: Callable[[str], None]) -> Any:
    """Return a switch of a setting "on" or "off"; ``chosen`` is given the new value."""
    found = Gtk.Switch(active=value == "on", valign=Gtk.Align.CENTER)
    name_control(found, name)

    def flipped(_switch: Any, on: bool) -> bool:  # noqa: FBT001 -- GTK's signal
        if on != (value == "on"):
            # Handled: the change shows the page again, which has the present value until then.
            chosen("on" if on else "off")
            found.set_active(value == "on")
        return True

    found.connect("state-set", flipped)
    return found
