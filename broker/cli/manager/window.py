"""The manager's window: a list of pages at the side, one page beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from broker.cli.manager.activity import ActivityPage, EventRow
from broker.cli.manager.following import ManagerState, SandboxRow, without_numbers
from broker.cli.manager.list_view import ListPage
from broker.cli.manager.overview_pages import (
    devices_page,
    questions_page,
    setup_page,
)
from broker.cli.manager.permissions import PermissionRow
from broker.cli.manager.sandbox_page import sandbox_line, sandbox_page
from broker.cli.manager.toolkit import Adw, Gdk, Gio, Gtk
from broker.cli.manager.verb_calls import VerbResult, run_verb, start_verb
from broker.cli.manager.widgets import action_row, ask, button, group, page_of, tell
from broker.cli.sandboxes.presets import PRESETS
from broker.core.escape import printable
from broker.ipc.control.api import DeviceStatus
from policy.records.model import Record

PAGES: Final = {
    "sandboxes": "Sandboxes",
    "questions": "Questions",
    "devices": "Devices",
    "activity": "Activity",
    "setup": "Set-up",
}
NO_STATE: Final = ManagerState()
"""Before the first look."""
Work = Callable[[Callable[[], Awaitable[None]]], None]
"""Runs an async function beside the others."""
Details = Callable[[SandboxRow], Awaitable[tuple[Record | None, list[PermissionRow]]]]


class ManagerWindow:
    """The window; ``work`` runs what waits, ``details`` reads a sandbox's permissions."""

    def __init__(
        self, app: Any, work: Work, details: Details, again: Callable[[], None]
    ) -> None:
        self._work = work
        self._details = details
        self._again = again
        self._state = NO_STATE
        self._listed: tuple[SandboxRow, ...] = ()
        self._shown = ""  # the sandbox whose page is open
        self._name = "sandboxes"  # of the page that is shown
        # One page is in the window: a screen reader reads the hidden ones of a Gtk.Stack.
        self._place = Adw.Bin(hexpand=True, vexpand=True)
        self._pages: dict[str, Any] = {}
        self._list: ListPage[SandboxRow] = ListPage(self._line, self._open)
        self._activity = ActivityPage(self._explain)
        self._pages["activity"] = self._activity.widget
        self._banner = Gtk.Label(visible=False, css_classes=["warning"], wrap=True)
        self.window = Adw.ApplicationWindow(
            application=app, title="Vitrail", default_width=960, default_height=680
        )
        self._lock = Gtk.ToggleButton(label="Lockdown")
        self._locking = self._lock.connect("toggled", self._lockdown)
        self.window.set_content(self._content())
        self.go("sandboxes")

    # -- what it shows ------------------------------------------------------------

    def show(self, state: ManagerState) -> None:
        """Show a new state on all pages."""
        before, self._state = self._state, state
        self._banner.set_visible(not state.reachable)
        self._banner.set_label(
            "No broker is running. It starts with the first sandbox that you start."
        )
        self._lock.handler_block(self._locking)
        self._lock.set_active(state.locked)
        self._lock.handler_unblock(self._locking)
        self._lock.set_sensitive(state.reachable)
        self._show_sandboxes()
        first = before is NO_STATE
        if first or (state.questions, state.grants) != (
            before.questions,
            before.grants,
        ):
            self._put("questions", questions_page(state, self._verb))
        if first or state.devices != before.devices:
            self._put("devices", devices_page(state, self._choose_sandbox, self._verb))
        now, then = self._row(self._shown), _row_in(before, self._shown)
        if now is not None and (
            then is None or without_numbers(now) != without_numbers(then)
        ):
            self._load(now)
        elif self._shown and now is None:
            self._put("sandbox", _unknown(self._shown))

    def add_events(self, rows: list[EventRow]) -> None:
        """Add events to the activity."""
        self._activity.add(rows)

    def go(self, name: str) -> None:
        """Show a page by its name, or a sandbox's."""
        if name not in PAGES:
            self._shown = name
            self._title.set_title(printable(name, 60))
            row = self._row(name)
            if row is not None:
                self._load(row)
            elif self._state is not NO_STATE:
                self._put("sandbox", _unknown(name))
            name = "sandbox"
        else:
            self._shown = ""
            self._title.set_title(PAGES[name])
        self._turn_to(name)
        if name == "setup":
            self._work(self._examine)

    def _turn_to(self, name: str) -> None:
        """Show the page of a name, which may still be without content."""
        self._name = name
        self._back.set_visible(name == "sandbox")
        self._place.set_child(self._pages.get(name))
        side = "sandboxes" if name == "sandbox" else name
        self._sides[side].set_active(True)

    def _content(self) -> Any:
        side = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, width_request=180)
        self._sides: dict[str, Any] = {}
        for name, title in PAGES.items():
            one = Gtk.ToggleButton(
                child=Gtk.Label(label=title, xalign=0),
                group=next(iter(self._sides.values()), None),
                css_classes=["flat"],
            )
            one.update_property([Gtk.AccessibleProperty.LABEL], [title])
            one.connect("clicked", lambda _button, name=name: self.go(name))
            self._sides[name] = one
            side.append(one)
        self._title = Adw.WindowTitle(title=PAGES["sandboxes"])
        self._back = button("Back", lambda: self.go("sandboxes"))
        bar = Adw.HeaderBar(title_widget=self._title)
        bar.pack_start(self._back)
        bar.pack_start(button("New…", self._new))
        bar.pack_end(self._lock)
        beside = Gtk.Box()
        beside.append(side)
        beside.append(Gtk.Separator(orientation=Gtk.Orientation.VERTICAL))
        beside.append(self._place)
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        box.append(bar)
        box.append(self._banner)
        box.append(beside)
        return box

    def _put(self, name: str, widget: Any) -> None:
        self._pages[name] = widget
        if name == self._name:
            self._place.set_child(widget)

    def _show_sandboxes(self) -> None:
        rows = self._state.sandboxes
        self._list.show([(row.name, row) for row in rows])
        if rows:
            self._put("sandboxes", self._list.widget)
        elif self._state.sandboxes != self._listed or "sandboxes" not in self._pages:
            self._put("sandboxes", self._first_run())
        self._listed = rows

    def _first_run(self) -> Any:
        """Return the page of a new sandbox: its name, and what it is for."""
        name = Gtk.Entry(placeholder_text="its purpose", valign=Gtk.Align.CENTER)
        name.update_property([Gtk.AccessibleProperty.LABEL], ["Name of the sandbox"])

        def create(preset: str) -> None:
            self._create(name.get_text().strip() or preset, preset)

        rows = [
            action_row(
                word.capitalize(),
                preset.help,
                button("Create", partial(create, word), about=word),
            )
            for word, preset in PRESETS.items()
        ]
        named = action_row("Name", "Letters, digits and '-'.", name)
        return page_of([group("New sandbox", [named]), group("What is it for?", rows)])

    def _row(self, name: str) -> SandboxRow | None:
        return _row_in(self._state, name)

    def _line(self, row: SandboxRow) -> Any:
        verb = "start" if row.status is None else "stop"
        return sandbox_line(row, lambda: self.verb("menu", verb, row.name))

    def _open(self, row: SandboxRow) -> None:
        self.go(row.name)

    def _load(self, row: SandboxRow) -> None:
        async def load() -> None:
            record, permissions = await self._details(row)
            if self._shown == row.name:
                self._put("sandbox", sandbox_page(row, record, permissions, self))

        self._work(load)

    async def _examine(self) -> None:
        self._put("setup", page_of([group("Examining this machine…", [])]))
        result = await run_verb("doctor", "--json")
        report = result.output or result.words
        self._put("setup", setup_page(report, self._state.warnings, self._copy))

    # -- what it does -------------------------------------------------------------

    def verb(self, *words: str) -> None:
        """Start a verb that reports by notifications."""
        start_verb(*words)

    def change(self, record: str, setting: str, value: str) -> None:
        """Show which lines and decisions a setting's change would change, and ask."""

        async def preview() -> None:
            words = ("set", record, setting, value)
            result = await run_verb(*words, "--check")
            if not result.done:
                self._fail(result)
                return
            text = "\n".join(filter(None, (result.words, result.output)))
            title = f"Set {setting} of {record} to {value}?"
            ask(self.window, title, text, "Change", lambda: self._verb(*words, "--yes"))

        self._work(preview)

    def remove(self, record: str) -> None:
        """Ask, with what would be lost, and remove a sandbox."""
        text = (
            "Its home, snapshots, record, menu entry and logs are removed. A backup "
            f"first: brokerctl sandbox backup {record} FILE"
        )
        words = ("sandbox", "remove", record, "--yes")
        ask(
            self.window, f"Remove {record}?", text, "Remove", lambda: self._verb(*words)
        )

    def open_file(self, path: Path) -> None:
        """Open a file in the desktop's editor."""
        Gio.AppInfo.launch_default_for_uri(path.as_uri(), None)

    def _verb(self, *words: str) -> None:
        """Run a verb to its end, show its failure, and look again."""

        async def run() -> None:
            result = await run_verb(*words)
            if not result.done:
                self._fail(result)
            self._again()
            row = self._row(self._shown)
            if row is not None:
                self._load(row)

        self._work(run)

    def _fail(self, result: VerbResult) -> None:
        text = "\n".join(filter(None, (result.words, result.output)))
        tell(self.window, "This was not done", text)

    def _create(self, name: str, preset: str) -> None:
        async def run() -> None:
            result = await run_verb("new", name, "--for", preset)
            if not result.done:
                self._fail(result)
                return
            self._again()
            self.go(name)

        self._work(run)

    def _new(self) -> None:
        self._put("sandbox", self._first_run())
        self._shown = ""
        self._title.set_title("New sandbox")
        self._turn_to("sandbox")

    def _choose_sandbox(self, device: DeviceStatus) -> None:
        running = [row.name for row in self._state.sandboxes if row.status is not None]
        if not running:
            tell(self.window, "No sandbox is running", "Start a sandbox first.")
            return
        port = device.port
        rows = [
            action_row(
                name,
                "",
                button(
                    "Attach",
                    partial(self._verb, "device", "attach", port, name),
                ),
            )
            for name in running
        ]
        self._put("devices", page_of([group(f"Attach {device.title} to", rows)]))

    def _lockdown(self, switch: Any) -> None:
        self._verb("lockdown", *(() if switch.get_active() else ("--lift",)))

    def _explain(self, sequence: int) -> None:
        async def explain() -> None:
            result = await run_verb("policy", "explain", "--event", str(sequence))
            tell(self.window, "Why", f"{result.output}\n{result.words}".strip())

        self._work(explain)

    def _copy(self, text: str) -> None:
        Gdk.Display.get_default().get_clipboard().set(text)


def _unknown(untrusted_name: str) -> Any:
    words = f"No sandbox is named '{printable(untrusted_name, 60)}'"
    return page_of([group(words, [action_row("Choose one under Sandboxes.", "")])])


def _row_in(state: ManagerState, name: str) -> SandboxRow | None:
    return next((row for row in state.sandboxes if row.name == name), None)
