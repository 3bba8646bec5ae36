"""The manager's window: a list of pages at the side, one page beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from broker.cli.manager.details import SandboxDetails
from broker.cli.manager.following import ManagerState, SandboxRow, without_numbers
from broker.cli.manager.keep_place import keep_place
from broker.cli.manager.list_view import ListPage
from broker.cli.manager.pages.activity import ActivityPage, EventRow, Read
from broker.cli.manager.pages.chart import ROWS, chart_page
from broker.cli.manager.pages.first_run import FirstRunPage
from broker.cli.manager.pages.new_page import NewPage
from broker.cli.manager.pages.overview_pages import (
    devices_page,
    questions_page,
    setup_page,
)
from broker.cli.manager.pages.policy_page import PolicyPage
from broker.cli.manager.pages.sandbox_page import SandboxLine, sandbox_page
from broker.cli.manager.pages.stock_pages import ImagesPage, backups_page
from broker.cli.manager.processor import LoadSampler, Roots
from broker.cli.manager.sandbox_actions import SandboxActions
from broker.cli.manager.toolkit import Adw, Gtk
from broker.cli.manager.verb_calls import VerbResult
from broker.cli.manager.verb_runner import VerbRunner, Work
from broker.cli.manager.widgets import (
    action_row,
    button,
    copy_text,
    group,
    name_control,
    page_of,
    plain,
    show_page,
    tell,
)
from broker.cli.manager.words import tr
from broker.core.escape import printable
from broker.ipc.control.api import DeviceStatus

PAGES: Final = {
    "sandboxes": tr("Sandboxes"),
    "questions": tr("Questions"),
    "devices": tr("Devices"),
    "activity": tr("Activity"),
    "policy": tr("Policy"),
    "images": tr("Images"),
    "backups": tr("Backups"),
    "setup": tr("Set-up"),
}
_TOAST_SECONDS: Final = 20
_DAY: Final = 86400
"""A screen reader takes longer than the eyes to *Undo*."""
NO_STATE: Final = ManagerState()
"""Before the first look."""


@dataclass(frozen=True, slots=True)
class Readers:
    """What reads files for the pages, each beside the window's loop."""

    details: Callable[[SandboxRow], Awaitable[SandboxDetails]]
    image_users: Callable[[], Awaitable[Mapping[str, Sequence[str]]]]
    """Returns the records that use each image."""
    events: Read


class ManagerWindow:
    """The window; ``work`` runs what waits, ``again`` has the broker asked again."""

    def __init__(
        self, app: Any, work: Work, read: Readers, again: Callable[[], None]
    ) -> None:
        self._work = work
        self._read = read
        self._again = again
        self._state = NO_STATE
        self._listed: tuple[SandboxRow, ...] = ()
        self._shown = ""  # the sandbox whose page is open
        self._name = "sandboxes"  # of the page that is shown
        self._images: object = None
        """What the page of images shows."""
        self._here = ("", "")  # the page and the sandbox that were put last
        # One page is in the window: a screen reader reads the hidden ones of a Gtk.Stack.
        self._place = Adw.Bin(hexpand=True, vexpand=True)
        self._pages: dict[str, Any] = {}
        self._list: ListPage[SandboxRow] = ListPage(
            PAGES["sandboxes"],
            Adw.Bin,
            self._fill_line,
            spoken=lambda row: f"{row.name}, {row.state}",
            chosen=self._open,
            update=self._update_line,
        )
        self._lines: dict[str, SandboxLine] = {}
        self._loads: Mapping[str, int] = {}
        self._sampler = LoadSampler(
            self._list.widget, work, self._roots, self._show_loads
        )
        self._activity = ActivityPage(self._explain, self._chart, work, read.events)
        self._pages["activity"] = self._activity.widget
        self._banner = Gtk.Label(visible=False, css_classes=["warning"], wrap=True)
        self.window = Adw.ApplicationWindow(
            application=app, title="Vitrail", default_width=960, default_height=680
        )
        self._verbs = VerbRunner(self.window, work, self._look_again)
        self._actions = SandboxActions(
            self.window,
            self._verbs,
            go=self.go,
            toast=self._toast,
            history=self._history,
        )
        self._lock = Gtk.ToggleButton(label=tr("Lockdown"))
        self._locking = self._lock.connect("toggled", self._lockdown)
        self.window.set_content(self._content())
        self.go("sandboxes")

    # -- what it shows ------------------------------------------------------------

    def show(self, state: ManagerState) -> None:
        """Show a new state on all pages."""
        before, self._state = self._state, state
        self._banner.set_visible(not state.reachable)
        self._banner.set_label(
            tr("No broker is running. It starts with the first sandbox that you start.")
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
            self._put(
                "questions",
                questions_page(
                    state, self._verbs.run, lambda: self._history("", "question")
                ),
            )
        if first or state.devices != before.devices:
            self._put(
                "devices", devices_page(state, self._choose_sandbox, self._verbs.run)
            )
        if first and self._name == "policy":
            self._fill("policy")
        if first and self._name == "sandboxes" and not state.sandboxes:
            self.go("setup")  # the first run
        now, then = self._row(self._shown), _row_in(before, self._shown)
        if now is not None and (
            then is None or without_numbers(now) != without_numbers(then)
        ):
            self._load(now)
        elif self._shown and now is None:
            self._put("sandbox", _unknown(self._shown))

    def add_event(self, row: EventRow) -> None:
        """Add an event to the activity."""
        self._activity.add(row)

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
        self._fill(name)

    def _fill(self, name: str) -> None:
        """Read what a page shows that nothing reports when it changes."""
        if name == "setup":
            self._put("setup", page_of([group(tr("Examining this machine…"), [])]))
            # Its exit code counts the findings.
            self._verbs.look("doctor", "--json", codes=(0, 1), done=self._show_setup)
        elif name == "activity":
            self._activity.open()
        elif name == "policy" and self._state is not NO_STATE:
            colours = {row.name: row.colour for row in self._state.sandboxes}
            page = PolicyPage(self.window, self._verbs, self._actions, colours)
            self._put("policy", page.widget)
        elif name == "backups":
            self._verbs.look("sandbox", "list", "--json", done=self._show_backups)
        elif name == "images":
            self._verbs.look("image", "list", "--json", done=self._show_images)

    def _show_setup(self, result: VerbResult) -> None:
        if not self._state.sandboxes:
            first = FirstRunPage(
                self.window,
                self._verbs,
                result.json(),
                copy=copy_text,
                again=lambda: self._fill("setup"),
                go=self._show_new,
            )
            self._put("setup", first.widget)
            return
        page = setup_page(result.json(), self._state.warnings, copy_text)
        self._put("setup", page)

    def _show_backups(self, result: VerbResult) -> None:
        homes = result.json()["sandboxes"]
        self._put("backups", backups_page(homes, self._actions))

    def _show_images(self, result: VerbResult) -> None:
        async def show() -> None:
            users = await self._read.image_users()
            images = result.json()
            # A page that is drawn anew loses the key that is down on one of its buttons.
            days = [int(one["age_seconds"]) // _DAY for one in images]
            facts = [
                {**one, "age_seconds": n} for one, n in zip(images, days, strict=True)
            ]
            shows = (facts, users)
            if self._images == shows:
                return
            self._images = shows
            page = ImagesPage(self.window, self._verbs, images, users, self._toast)
            self._put("images", page.widget)

        self._work(show)

    def _turn_to(self, name: str) -> None:
        """Show the page of a name, which may still be without content."""
        self._name = name
        self._back.set_visible(name == "sandbox")
        self._here = (name, "")
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
            name_control(one, title)
            one.connect("clicked", lambda _button, name=name: self.go(name))
            self._sides[name] = one
            side.append(one)
        self._title = Adw.WindowTitle(title=PAGES["sandboxes"])
        self._back = button(tr("Back"), lambda: self.go("sandboxes"))
        bar = Adw.HeaderBar(title_widget=self._title)
        bar.pack_start(self._back)
        bar.pack_start(button(tr("New…"), self._new))
        bar.pack_end(self._lock)
        beside = Gtk.Box()
        beside.append(side)
        beside.append(Gtk.Separator(orientation=Gtk.Orientation.VERTICAL))
        self._toasts = Adw.ToastOverlay(child=self._place)
        beside.append(self._toasts)
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        box.append(bar)
        box.append(self._banner)
        box.append(beside)
        box.append(self._verbs.widget)
        return box

    def _put(self, name: str, widget: Any) -> None:
        self._pages[name] = widget
        if name != self._name:
            return
        old, focus = self._place.get_child(), self.window.get_focus()
        here = (name, self._shown)
        self._place.set_child(widget)
        if here == self._here and old is not widget:
            keep_place(old, widget, focus)
        self._here = here

    def _show_sandboxes(self) -> None:
        rows = self._state.sandboxes
        names = {row.name for row in rows}
        self._lines = {name: one for name, one in self._lines.items() if name in names}
        self._list.show([(row.name, row) for row in rows])
        if rows:
            self._put("sandboxes", self._list.widget)
        elif self._state.sandboxes != self._listed or "sandboxes" not in self._pages:
            self._put("sandboxes", self._new_page().widget)
        self._listed = rows
        self._sampler.follow()

    def _row(self, name: str) -> SandboxRow | None:
        return _row_in(self._state, name)

    def _fill_line(self, place: Any, row: SandboxRow) -> None:
        verb = "start" if row.status is None else "stop"
        line = SandboxLine(row, lambda: self._verbs.start("menu", verb, row.name))
        line.show_load(self._loads.get(row.name))
        self._lines[row.name] = line
        place.set_child(line.widget)

    def _update_line(self, row: SandboxRow) -> bool:
        line = self._lines.get(row.name)
        return line is not None and line.update(row)

    def _roots(self) -> Roots:
        """Return the processes of the sandboxes that run on this machine."""
        rows = self._state.sandboxes
        return {row.name: row.processes for row in rows if row.processes}

    def _show_loads(self, loads: Mapping[str, int]) -> None:
        self._loads = loads
        for name, line in self._lines.items():
            line.show_load(loads.get(name))
        traffic = (row.status and row.status.network for row in self._state.sandboxes)
        if any(one and one.flows for one in traffic):
            self._again()  # its rate is no event

    def _open(self, row: SandboxRow) -> None:
        self.go(row.name)

    def _load(self, row: SandboxRow) -> None:
        async def load() -> None:
            details = await self._read.details(row)
            if self._shown == row.name:
                self._put("sandbox", sandbox_page(row, details, self._actions))

        self._work(load)

    def _look_again(self) -> None:
        """Show what a verb has changed, which may be no event of the broker."""
        self._again()
        row = self._row(self._shown)
        if row is not None:
            self._load(row)
        if self._name in {"images", "backups"}:
            self._fill(self._name)

    def _toast(self, text: str, undo: Callable[[], None] | None) -> None:
        toast = Adw.Toast(
            title=plain(text),  # markup
            timeout=_TOAST_SECONDS,
            priority=Adw.ToastPriority.HIGH,  # in place of the one before
        )
        if undo is not None:
            toast.set_button_label(tr("Undo"))
            toast.connect("button-clicked", lambda _toast: undo())
        self._toasts.add_toast(toast)

    # -- what it does -------------------------------------------------------------

    def _new_page(self) -> NewPage:
        return NewPage(self.window, self._verbs, self._show_new)

    def _show_new(self, name: str) -> None:
        """Show a sandbox that was just made, which the next look finds."""
        self._again()
        self.go(name)

    def _new(self) -> None:
        self._put("sandbox", self._new_page().widget)
        self._shown = ""
        self._title.set_title(tr("New sandbox"))
        self._turn_to("sandbox")

    def _choose_sandbox(self, device: DeviceStatus) -> None:
        running = [row.name for row in self._state.sandboxes if row.status is not None]
        if not running:
            tell(self.window, tr("No sandbox is running"), tr("Start a sandbox first."))
            return

        def attach(name: str) -> None:
            chooser.close()
            self._verbs.run("device", "attach", device.port, name)

        rows = [
            action_row(
                name, "", button(tr("Attach"), partial(attach, name), about=name)
            )
            for name in running
        ]
        title = tr("Attach {device}", device=device.title)
        chooser = show_page(self.window, title, page_of([group(title, rows)]))

    def _lockdown(self, switch: Any) -> None:
        self._verbs.run("lockdown", *(() if switch.get_active() else ("--lift",)))

    def _history(self, sandbox: str, kind: str) -> None:
        """Show the events of a sandbox and of a kind; empty: of all."""
        self._activity.limit_to(sandbox, kind)
        self.go("activity")

    def _chart(self) -> None:
        words = ("audit", "stats", "--json", "--top", str(ROWS))

        def count_decisions(events: VerbResult) -> None:
            def show(decisions: VerbResult) -> None:
                page = chart_page(events.json(), decisions.json())
                show_page(self.window, tr("Chart of the log"), page)

            # 1: there is no event.
            kind = ("--kind", "decision")
            self._verbs.look(*words, *kind, codes=(0, 1), done=show)

        self._verbs.look(*words, codes=(0, 1), done=count_decisions)

    def _explain(self, sequence: int) -> None:
        def show(result: VerbResult) -> None:
            tell(self.window, tr("Why"), f"{result.output}\n{result.words}".strip())

        words = ("policy", "explain", "--event", str(sequence))
        self._verbs.look(*words, codes=(0, 1, 3), done=show)


def _unknown(untrusted_name: str) -> Any:
    words = tr("No sandbox is named '{name}'", name=printable(untrusted_name, 60))
    row = action_row(tr("Choose one in the list of sandboxes."), "")
    return page_of([group(words, [row])])


def _row_in(state: ManagerState, name: str) -> SandboxRow | None:
    return next((row for row in state.sandboxes if row.name == name), None)
