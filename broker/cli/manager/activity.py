"""The log as a list of events with filters; the newest are read first, then followed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from broker.cli.audit.events import as_message
from broker.cli.manager.list_view import ListPage
from broker.cli.manager.toolkit import Gtk
from broker.cli.manager.widgets import button, label
from broker.core.paths import Paths
from broker.ipc.audit.filters import Filters, Found
from broker.ipc.audit.query import open_log
from broker.ipc.control.api import EventItem

MOST: Final = 20_000
"""Events that the list keeps; older ones are in the log."""
_FIRST: Final = 2_000
KINDS: Final = ("everything", "decision", "question", "sandbox", "transfer", "device")
"""The first words of kinds that the list can be limited to."""


@dataclass(frozen=True, slots=True)
class EventRow:
    """A line of the list; texts of a sandbox are escaped by ``as_message``."""

    sequence: int
    time: str
    kind: str
    sandbox: str
    text: str

    def matches(self, sandbox: str, kind: str) -> bool:
        """Return whether the filters show it; an empty one shows all."""
        return (not sandbox or sandbox in self.sandbox) and (
            kind in {"", KINDS[0]} or self.kind.split(".")[0] == kind
        )


def row_of(found: Found) -> EventRow:
    """Return an event's line."""
    time = datetime.fromtimestamp(found.time_ns / 1e9).astimezone()
    words = " ".join(as_message(found).plain.split())
    return EventRow(
        found.sequence, f"{time:%m-%d %H:%M:%S}", found.kind, found.sandbox, words
    )


def newest_events(paths: Paths) -> list[EventRow]:
    """Return the newest events of the log, oldest first; none if there is no log."""
    if not paths.audit.exists():
        return []
    with open_log(paths.audit) as log:
        return [row_of(found) for found in log.find(Filters(), last=_FIRST)]


def row_of_item(item: EventItem) -> EventRow | None:
    """Return the line of an event that the broker sent; None for the first item."""
    if item.event is None:
        return None
    fields = msgspec.json.decode(item.event, type=dict[str, object])
    time = str(fields.pop("time", ""))
    when = int(datetime.fromisoformat(time).timestamp() * 1e9) if time else 0
    kind, sandbox = str(fields.get("type", "")), str(fields.get("sandbox", ""))
    body = msgspec.json.encode(fields).decode()
    return row_of(Found(item.sequence, when, kind, sandbox, body))


class ActivityPage:
    """The page: a search for a sandbox, a choice of kinds, and the list."""

    def __init__(self, explain: Callable[[int], None]) -> None:
        self._explain = explain
        self._rows: list[EventRow] = []
        self._list: ListPage[EventRow] = ListPage(self._line)
        self._search = Gtk.SearchEntry(placeholder_text="Sandbox", hexpand=True)
        self._kind = Gtk.DropDown.new_from_strings(list(KINDS))
        self._kind.update_property([Gtk.AccessibleProperty.LABEL], ["Kind of event"])
        self._search.connect("search-changed", lambda _entry: self._show())
        self._kind.connect("notify::selected", lambda _down, _what: self._show())
        bar = Gtk.Box(spacing=6, margin_top=6, margin_start=12, margin_end=12)
        bar.append(self._search)
        bar.append(self._kind)
        self.widget = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        self.widget.append(bar)
        self.widget.append(self._list.widget)

    def add(self, rows: Sequence[EventRow]) -> None:
        """Add events, oldest first; an event that is shown already is left out."""
        newest = self._rows[-1].sequence if self._rows else 0
        new = [row for row in rows if row.sequence > newest]
        self._rows = [*self._rows, *new][-MOST:]
        shown = [(str(row.sequence), row) for row in new if self._matches(row)]
        self._list.append(shown, MOST)

    def limit_to(self, sandbox: str) -> None:
        """Show the events of a sandbox."""
        self._search.set_text(sandbox)

    def _matches(self, row: EventRow) -> bool:
        kind = KINDS[self._kind.get_selected()]
        return row.matches(self._search.get_text().strip(), kind)

    def _show(self) -> None:
        rows = [(str(row.sequence), row) for row in self._rows if self._matches(row)]
        self._list.show(rows)

    def _line(self, row: EventRow) -> Any:
        line = Gtk.Box(spacing=12, margin_start=12, margin_end=12)
        line.append(Gtk.Label(label=row.time, css_classes=["dim-label", "numeric"]))
        line.append(label(row.text))
        line.set_tooltip_text(row.text)
        if row.kind == "decision":
            about = f"event {row.sequence}"
            line.append(
                button("Why?", lambda: self._explain(row.sequence), "flat", about=about)
            )
        return line
