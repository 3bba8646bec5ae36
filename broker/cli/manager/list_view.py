"""A list of any length of which only the visible rows have widgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from broker.cli.manager.toolkit import Gtk

_Row = TypeVar("_Row")


class ListPage(Generic[_Row]):
    """A scrolled list: ``make`` returns the widget of a row, ``chosen`` takes a click."""

    def __init__(
        self,
        make: Callable[[_Row], Any],
        chosen: Callable[[_Row], None] | None = None,
    ) -> None:
        self._rows: dict[str, _Row] = {}
        self._keys: list[str] = []
        self._model = Gtk.StringList()
        factory = Gtk.SignalListItemFactory()

        def bind(_factory: Any, item: Any) -> None:
            row = self._rows.get(item.get_item().get_string())
            item.set_child(None if row is None else make(row))

        factory.connect("bind", bind)
        selection = Gtk.NoSelection(model=self._model)
        view = Gtk.ListView(
            model=selection, factory=factory, single_click_activate=True
        )
        view.add_css_class("rich-list")

        def activated(_view: Any, place: int) -> None:
            row = self._rows.get(self._model.get_string(place))
            if chosen is not None and row is not None:
                chosen(row)

        view.connect("activate", activated)
        self.widget = Gtk.ScrolledWindow(child=view, vexpand=True)

    def show(self, rows: Sequence[tuple[str, _Row]]) -> None:
        """Show rows by their keys; a row that is equal to the shown one keeps its widget."""
        keys = [key for key, _ in rows]
        before, self._rows = self._rows, dict(rows)
        if keys != self._keys:
            self._model.splice(0, len(self._keys), keys)
            self._keys = keys
            return
        for place, (key, row) in enumerate(rows):
            if before.get(key) != row:
                self._model.splice(place, 1, [key])

    def append(self, rows: Sequence[tuple[str, _Row]], most: int) -> None:
        """Add rows at the end, and drop the oldest beyond ``most``."""
        for key, row in rows:
            self._rows[key] = row
        self._keys += [key for key, _ in rows]
        self._model.splice(self._model.get_n_items(), 0, [key for key, _ in rows])
        beyond = len(self._keys) - most
        if beyond > 0:
            for key in self._keys[:beyond]:
                self._rows.pop(key, None)
            self._keys = self._keys[beyond:]
            self._model.splice(0, beyond, [])
