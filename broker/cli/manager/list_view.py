"""A list of any length of which only the visible rows have widgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from broker.cli.manager.toolkit import Gtk
from broker.cli.manager.widgets import name_control

_Row = TypeVar("_Row")


class ListPage(Generic[_Row]):
    """A scrolled list, which ``name`` names for a screen reader: ``make`` returns a widget, ``fill`` has it show a row.

    A widget is used again for another row, and ``spoken`` names it for a screen reader.  ``update`` shows a changed row in the widget
    that it has, which keeps the focus; False: it cannot.  ``chosen`` takes a click on a row, ``end``
    is called when its end is scrolled to.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Any],
        fill: Callable[[Any, _Row], None],
        *,
        spoken: Callable[[_Row], str],
        end: Callable[[], None] | None = None,
        chosen: Callable[[_Row], None] | None = None,
        update: Callable[[_Row], bool] = lambda _row: False,
    ) -> None:
        self._update = update
        self._rows: dict[str, _Row] = {}
        self._keys: list[str] = []
        self._model = Gtk.StringList()
        factory = Gtk.SignalListItemFactory()

        def bind(_factory: Any, item: Any) -> None:
            row = self._rows.get(item.get_item().get_string())
            if row is not None:
                child = item.get_child()
                fill(child, row)
                # The focused widget, which GTK before 4.12 does not name.
                name_control(child.get_parent(), spoken(row))

        factory.connect("setup", lambda _factory, item: item.set_child(make()))
        factory.connect("bind", bind)
        selection = Gtk.NoSelection(model=self._model)
        view = Gtk.ListView(
            model=selection, factory=factory, single_click_activate=chosen is not None
        )
        name_control(view, name)
        view.add_css_class("rich-list" if chosen is not None else "log")

        def activated(_view: Any, place: int) -> None:
            row = self._rows.get(self._model.get_string(place))
            if chosen is not None and row is not None:
                chosen(row)

        view.connect("activate", activated)
        self.widget = Gtk.ScrolledWindow(child=view, vexpand=True)

        def reached(_widget: Any, edge: Any) -> None:
            if end is not None and edge == Gtk.PositionType.BOTTOM:
                end()

        self.widget.connect("edge-reached", reached)

    def show(self, rows: Sequence[tuple[str, _Row]]) -> None:
        """Show rows by their keys; a row that is equal to the shown one keeps its widget."""
        keys = [key for key, _ in rows]
        before, self._rows = self._rows, dict(rows)
        if keys != self._keys:
            self._model.splice(0, len(self._keys), keys)
            self._keys = keys
            return
        for place, (key, row) in enumerate(rows):
            if before.get(key) != row and not self._update(row):
                self._model.splice(place, 1, [key])

    def prepend(self, rows: Sequence[tuple[str, _Row]], most: int) -> None:
        """Add rows at the beginning, and drop the last ones beyond ``most``."""
        self._rows |= dict(rows)
        new = [key for key, _ in rows]
        self._keys = [*new, *self._keys]
        self._model.splice(0, 0, new)
        beyond = len(self._keys) - most
        if beyond > 0:
            for key in self._keys[most:]:
                self._rows.pop(key, None)
            del self._keys[most:]
            self._model.splice(most, beyond, [])

    def extend(self, rows: Sequence[tuple[str, _Row]]) -> None:
        """Add rows at the end."""
        self._rows |= dict(rows)
        new = [key for key, _ in rows]
        self._model.splice(len(self._keys), 0, new)
        self._keys += new
