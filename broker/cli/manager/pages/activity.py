"""The log as a timeline with filters, newest first: read in pages, then followed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Final

import msgspec

from broker.cli.audit.events import as_message
from broker.cli.manager.list_view import ListPage
from broker.cli.manager.toolkit import Gtk
from broker.cli.manager.widgets import button, label, line_text, name_control
from broker.cli.manager.words import tr
from broker.core.paths import Paths
from broker.ipc.audit.filters import Filters, Found
from broker.ipc.audit.query import open_log
from broker.ipc.control.api import EventItem

MOST: Final = 20_000
"""Events that the list keeps; older ones are in the log."""
PAGE: Final = 500
"""Events of one read: several screens of rows."""
KINDS: Final = ("everything", "decision", "question", "sandbox", "transfer", "device")
"""The first words of kinds that the list can be limited to."""
_KIND_WORDS: Final = [
    tr("everything"),
    tr("decision"),
    tr("question"),
    tr("sandbox"),
    tr("transfer"),
    tr("device"),
]


@dataclass(frozen=True, slots=True)
class EventRow:
    """A line of the list; texts of a sandbox are escaped by ``as_message``."""

    sequence: int
    time_ns: int
    kind: str
    sandbox: str
    text: str

    @property
    def time(self) -> str:
        """The time as text, in the desktop's time zone."""
        time = datetime.fromtimestamp(self.time_ns / 1e9).astimezone()
        return f"{time:%m-%d %H:%M:%S}"


@dataclass(frozen=True, slots=True)
class EventQuery:
    """Which events are shown: a part of the sandbox's name, and a kind; empty: all."""

    sandbox: str = ""
    kind: str = ""

    def matches(self, row: EventRow) -> bool:
        """Return whether an event is shown."""
        return fnmatchcase(row.sandbox, self._pattern) and (
            not self.kind or row.kind.split(".")[0] == self.kind
        )

    def filters(self) -> Filters:
        """Return the query of the log."""
        return Filters(
            sandboxes=(self._pattern,) if self.sandbox else (),
            kinds=(self.kind,) if self.kind else (),
        )

    @property
    def _pattern(self) -> str:
        return f"*{self.sandbox}*"


def row_of(found: Found) -> EventRow:
    """Return an event's line."""
    words = " ".join(as_message(found).plain.split())
    return EventRow(found.sequence, found.time_ns, found.kind, found.sandbox, words)


def read_events(
    paths: Paths, query: EventQuery, before: EventRow | None = None
) -> list[EventRow]:
    """Return a page of events, newest first, or those before one; none without a log."""
    if not paths.audit.exists():
        return []
    # By number: times are taken before the log has an order.
    limit = {} if before is None else {"before": before.sequence}
    with open_log(paths.audit) as log:
        found = log.find(query.filters(), last=PAGE, newest_first=True, **limit)
        return [row_of(one) for one in found]


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


Read = Callable[[EventQuery, EventRow | None], Awaitable[list[EventRow]]]
"""Reads a page of the log."""
Work = Callable[[Callable[[], Awaitable[None]]], None]


class EventLine(Gtk.Box):  # type: ignore[misc]  # PyGObject has no types
    """The widget of an event: its time, its text, and for a decision a button."""

    def __init__(self, explain: Callable[[int], None]) -> None:
        super().__init__(spacing=12, margin_start=12, margin_end=12)
        self._sequence = 0
        self._time = Gtk.Label(css_classes=["dim-label", "numeric"])
        self._text = label("")
        self._why = button(tr("Why?"), lambda: explain(self._sequence), "flat")
        for one in (self._time, self._text, self._why):
            self.append(one)

    def show(self, row: EventRow) -> None:
        """Show an event in place of the one before."""
        self._sequence = row.sequence
        self._time.set_label(row.time)
        self._text.set_label(line_text(row.text))
        self._text.set_tooltip_text(row.text)
        self._why.set_visible(row.kind == "decision")
        name_control(self._why, tr("Why? event {number}", number=row.sequence))
        # The focus goes from button to button: each says what it is about.
        self._why.update_property([Gtk.AccessibleProperty.DESCRIPTION], [row.text])


class ActivityPage:
    """The page: a search for a sandbox, a choice of kinds, a chart, and the list."""

    def __init__(
        self,
        explain: Callable[[int], None],
        chart: Callable[[], None],
        work: Work,
        read: Read,
    ) -> None:
        self._work = work
        self._read = read
        self._query = EventQuery()
        self._rows: list[EventRow] = []
        self._opened = self._ended = self._reads = False
        self._list: ListPage[EventRow] = ListPage(
            tr("Events"),
            lambda: EventLine(explain),
            EventLine.show,
            spoken=lambda row: row.text,
            end=self._older,
        )
        self._search = Gtk.SearchEntry(placeholder_text=tr("Sandbox"), hexpand=True)
        name_control(self._search, tr("Sandbox"))
        self._kind = Gtk.DropDown.new_from_strings(_KIND_WORDS)
        name_control(self._kind, tr("Kind of event"))
        self._search.connect("search-changed", lambda _entry: self._changed())
        self._kind.connect("notify::selected", lambda _down, _what: self._changed())
        bar = Gtk.Box(spacing=6, margin_top=6, margin_start=12, margin_end=12)
        bar.append(self._search)
        bar.append(self._kind)
        bar.append(button(tr("Chart"), chart))
        self._older_button = button(tr("Older events"), self._older, "flat")
        self._older_button.set_halign(Gtk.Align.CENTER)
        self.widget = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        self.widget.append(bar)
        self.widget.append(self._list.widget)
        self.widget.append(self._older_button)

    def open(self) -> None:
        """Read the newest events, if the page was not shown before."""
        if not self._opened:
            self._opened = True
            self._work(self._load)

    def add(self, row: EventRow) -> None:
        """Add a new event; one that is shown already is left out."""
        known = self._rows[0].sequence if self._rows else 0
        if self._opened and row.sequence > known and self._query.matches(row):
            self._rows = [row, *self._rows][:MOST]
            self._list.prepend([(str(row.sequence), row)], MOST)

    def limit_to(self, sandbox: str, kind: str) -> None:
        """Show the events of a sandbox and of a kind; empty: of all."""
        self._kind.set_selected(KINDS.index(kind or KINDS[0]))
        self._search.set_text(sandbox)

    def _changed(self) -> None:
        kind = KINDS[self._kind.get_selected()]
        text = self._search.get_text().strip()
        self._query = EventQuery(text, "" if kind == KINDS[0] else kind)
        if self._opened:
            self._work(self._load)

    async def _load(self) -> None:
        """Read the newest events of the present query."""
        query = self._query
        rows = await self._read(query, None)
        if query == self._query:  # else a later one is read
            # What came meanwhile is in the log, or is newer.
            newest = rows[0].sequence if rows else 0
            fresh = [row for row in self._rows if row.sequence > newest]
            self._show([*filter(query.matches, fresh), *rows], more=len(rows) == PAGE)

    def _older(self) -> None:
        """Read the page before the oldest event, unless that is being done."""
        if self._rows and not self._reads and not self._ended:
            self._reads = True
            self._work(self._load_older)

    async def _load_older(self) -> None:
        query, last = self._query, self._rows[-1]
        try:
            rows = await self._read(query, last)
        finally:
            self._reads = False
        if query == self._query and rows and self._rows[-1] == last:
            self._rows += rows
            self._list.extend([(str(row.sequence), row) for row in rows])
        self._end(not rows or len(self._rows) >= MOST)

    def _show(self, rows: Sequence[EventRow], *, more: bool) -> None:
        self._rows = [*rows]
        self._list.show([(str(row.sequence), row) for row in rows])
        self._end(not more)

    def _end(self, ended: bool) -> None:  # noqa: FBT001 -- a state
        self._ended = ended
        self._older_button.set_visible(not ended)
