"""The live screen of ``brokerctl top``, drawn by Textual."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, Static
from typing_extensions import override

from broker.cli import render
from broker.cli.homes.snapshot import Cpu, Snapshot, SnapshotRow, take
from broker.cli.sandboxes.steady import Steady
from broker.core.errors import VitrailError
from broker.core.escape import displayed
from broker.core.paths import Paths
from broker.ipc.control.api import (
    QuestionAnswerRequest,
    StopRequest,
    WindowCloseRequest,
)
from broker.ipc.control.blocking import open_blocking
from broker.ipc.control.method import Method
from broker.ipc.control.methods import ANSWER, STOP, WINDOW_CLOSE

_EVERY = 1.0
"""Seconds between two looks."""
_QUESTIONS = 3
_JUST_CHANGED = "the selection has just changed; check it, and press the key again"
_COLUMNS = (
    *(("SANDBOX", 15), ("CPU", 5), ("MEMORY", 9), ("STREAMS", 7)),
    *(("NETWORK", 11), ("WINDOWS", 21)),
)


class TopScreen(App[str]):
    """Sandboxes above, questions between, the newest events below.

    Run, it returns the sandbox whose log is to be shown, or None.
    """

    CSS = """
    DataTable { height: 1fr; }
    #questions { height: auto; max-height: 5; color: $warning; }
    #events { height: 9; border-top: solid $primary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("s", "stop", "Stop"),
        ("k", "kill", "Close window"),
        ("m", "mute", "Mute"),
        ("l", "log", "Log"),
        ("a", "answer(True)", "Allow"),
        ("d", "answer(False)", "Deny"),
        ("q", "quit", "Quit"),
    ]

    def __init__(
        self, paths: Paths, cpu: Cpu, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._clock = clock
        self._paths = paths
        self._cpu = cpu
        self._snapshot: Snapshot | None = None
        self._stopping = ""
        self._muted: set[str] = set()
        self._question = Steady()
        self._row = Steady()

    @override
    def compose(self) -> ComposeResult:
        table: DataTable[Text] = DataTable(cursor_type="row")
        for title, width in _COLUMNS:
            table.add_column(title, width=width)
        yield table
        yield Static(id="questions")
        yield Static(id="events")
        yield Footer()

    def on_mount(self) -> None:
        """Refresh now, then every second."""
        self.set_interval(_EVERY, self.look)
        self.look()

    def look(self) -> None:
        """Refresh in a thread, so that keys still work."""
        self.run_worker(self._take, thread=True, exclusive=True)

    def _take(self) -> None:
        """Fetch the data in a thread, then show it; or end with the error."""
        try:
            with open_blocking(self._paths) as client:
                snapshot = take(client, self._cpu)
        except VitrailError as error:
            # guard: the last words of the screen drive no terminal
            words = Text(displayed(f"error: {error}"))
            self.call_from_thread(self.exit, None, 1, words)
            return
        self.call_from_thread(self._show, snapshot)

    def _show(self, snapshot: Snapshot) -> None:
        """Fill the table and texts with new data; keep the selection."""
        table = self.query_one(DataTable)
        selected, at = self._selected(), table.cursor_row
        self._snapshot = snapshot
        table.clear()
        for row in snapshot.rows:
            table.add_row(*_cells(row, muted=row.name in self._muted), key=row.name)
        names = [row.name for row in snapshot.rows]
        if names:
            # A sandbox that starts or ends moves the rows, and not the selection.
            kept = selected is not None and selected.name in names
            at = names.index(selected.name) if selected and kept else at
            at = min(at, len(names) - 1)
            table.move_cursor(row=at)
            self._selection(names[at], by_person=kept or selected is None)
        now, questions = self._clock(), snapshot.questions
        self._question.shows(questions[0].id if questions else None, now)
        waiting = [f"? {q.text}" for q in snapshot.questions[:_QUESTIONS]]
        more = len(snapshot.questions) - len(waiting)
        waiting += [f"and {more} more questions"] if more else []
        waiting += [f"! {warning}" for warning in snapshot.warnings[:2]]
        self.query_one("#questions", Static).update(Text("\n".join(waiting)))
        self.query_one("#events", Static).update(Text("\n".join(snapshot.events[:8])))

    def _selection(self, name: str, *, by_person: bool) -> None:
        if by_person:
            self._row.chosen(name)
        else:
            self._row.shows(name, self._clock())

    # -- keys ------------------------------------------------------------------

    def _meant(self) -> SnapshotRow | None:
        """Return the selected sandbox, if a key that is pressed now applies to it."""
        row = self._selected()
        if row is None:
            return None
        self._row.chosen(row.name)
        return row if self._in_time(self._row) else None

    def _in_time(self, place: Steady) -> bool:
        taken = place.takes_key(self._clock())
        if not taken:
            self.notify(_JUST_CHANGED, severity="warning")
        return taken

    def _selected(self) -> SnapshotRow | None:
        rows = self._snapshot.rows if self._snapshot else ()
        at = self.query_one(DataTable).cursor_row
        return rows[at] if 0 <= at < len(rows) else None

    def action_stop(self) -> None:
        """Stop the selected sandbox; the key must be pressed twice."""
        row = self._meant()
        if row is None:
            return
        if self._stopping != row.name:
            self._stopping = row.name
            self.notify(f"press s again to stop {row.name}")
            return
        self._stopping = ""
        request = StopRequest(sandbox=row.name)
        self._order(STOP, request, f"stopped {row.name}")

    def action_kill(self) -> None:
        """Close the newest window of the selected sandbox by force."""
        row = self._meant()
        if row is None or not row.windows:
            return
        window = row.windows[-1]
        request = WindowCloseRequest(sandbox=row.name, window=window.number)
        self._order(WINDOW_CLOSE, request, f"closed window {window.number}")

    def action_answer(self, allow: bool) -> None:  # noqa: FBT001 -- Textual calls it
        """Answer the oldest question."""
        questions = self._snapshot.questions if self._snapshot else ()
        if questions and self._in_time(self._question):
            request = QuestionAnswerRequest(id=questions[0].id, allow=allow)
            self._order(ANSWER, request, "allowed" if allow else "denied")

    def action_mute(self) -> None:
        """Mute or unmute the selected sandbox."""
        row = self._meant()
        if row is None:
            return
        muted = row.name in self._muted
        self._in_thread(lambda: self._mute(row.name, muted=muted))

    def _mute(self, name: str, *, muted: bool) -> None:
        """Mute or unmute a sandbox at its sound filter, and show a failure."""
        # Late: libpulse is loaded by it, which not every machine has.
        from broker.cli import sound as audio

        verb = audio.unmute if muted else audio.mute
        assert verb.callback is not None
        try:
            verb.callback(sandbox=name)
        except VitrailError as error:
            self._tell(str(error), severity="error")
        else:
            # Only now: if there is no sound server it is not muted.
            self._muted ^= {name}

    def action_log(self) -> None:
        """Leave the screen for the selected sandbox's log."""
        row = self._selected()
        if row is not None:
            self.exit(row.name)

    def _order(
        self,
        method: Method[Any, Any],
        request: msgspec.Struct,
        done: str,
    ) -> None:
        """Call a method of the broker in a thread, and show the result."""

        def order() -> None:
            try:
                with open_blocking(self._paths) as client:
                    client.call(method, request)
            except VitrailError as error:
                self._tell(str(error), severity="error")
            else:
                self._tell(done)

        self._in_thread(order)

    def _in_thread(self, work: Callable[[], None]) -> None:
        # A separate group: a look is exclusive in its group, and would cancel an
        # order whose thread has not begun, so that a pressed key did nothing.
        self.run_worker(work, thread=True, group="orders")

    def _tell(self, text: str, severity: str = "information") -> None:
        notify: Callable[..., None] = self.notify
        # guard: errors of the screen drive no terminal
        text = displayed(text)
        self.call_from_thread(notify, text, severity=severity, markup=False)


def _cells(row: SnapshotRow, *, muted: bool) -> tuple[Text, ...]:
    titles = ", ".join(window.title or "(no title)" for window in row.windows)
    name = Text("▌", style=row.colour) + Text(row.name + (" (muted)" if muted else ""))
    net = row.network
    rate = 0 if net is None else int(net.rate_from_sandbox + net.rate_to_sandbox)
    return (
        name,
        Text(f"{row.cpu:4.0%}", justify="right"),
        Text(render.size(row.memory) if row.memory else "-", justify="right"),
        Text(str(row.streams), justify="right"),
        Text("-" if net is None else f"{render.size(rate)}/s", justify="right"),
        Text(titles or ", ".join(row.programs) or "-"),
    )
