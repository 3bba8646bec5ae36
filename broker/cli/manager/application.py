"""The application: GLib's loop is the host, trio runs in it as a guest."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import trio

from broker.cli.manager.details import SandboxDetails, details_of, image_users
from broker.cli.manager.following import ManagerState, SandboxRow, follower
from broker.cli.manager.pages.activity import (
    EventQuery,
    EventRow,
    read_events,
    row_of_item,
)
from broker.cli.manager.toolkit import Adw, Gdk, Gio, GLib, Gtk
from broker.cli.manager.widgets import tell
from broker.cli.manager.window import ManagerWindow, Readers
from broker.cli.manager.words import tr
from broker.cli.policy.records import EXAMPLES
from broker.cli.run.connect import offline_paths
from broker.core.errors import SetupError, VitrailError
from broker.core.language.notices import in_users_language
from broker.ipc.control.api import EventItem
from broker.ipc.in_thread import in_thread

APPLICATION: Final = "io.vitrail.Manager"
"""The name on the session bus, by which there is one instance, and of the icon."""
_STYLE: Final = EXAMPLES.parent / "manager.css"
_WAITING: Final = 64
"""Actions before trio runs."""


def run(argv: Sequence[str]) -> int:
    """Run until the window is closed; a second start shows a page in the first's window.

    Raises SetupError without a display.
    """
    # Without a display Adw.Application continues, and a signal ends it later.
    if Gdk.Display.get_default() is None:
        raise SetupError(
            "the manager found no display for its window",
            hint="run it in a terminal of your desktop, which sets WAYLAND_DISPLAY",
        )
    GLib.set_prgname(APPLICATION)  # names the window for compositors and screen readers
    GLib.set_application_name("Vitrail manager")
    app = Adw.Application(
        application_id=APPLICATION, flags=Gio.ApplicationFlags.HANDLES_COMMAND_LINE
    )
    manager = Manager(app)
    app.connect("command-line", manager.command_line)
    return int(app.run(list(argv)))


class Manager:
    """The window, the follower of the broker, and the tasks of its actions."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._paths = offline_paths()
        self._window: ManagerWindow | None = None
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._early: deque[Callable[[], Awaitable[None]]] = deque(maxlen=_WAITING)
        self._follower = follower(self._paths, self._show, self._add_event)

    def command_line(self, _app: Any, line: Any) -> int:
        """Show the window, or the page that a second start names."""
        if self._window is None:
            try:
                self._begin()
            except BaseException:
                # Else a window that is never shown keeps the program running.
                self._app.quit()
                raise
        for word in line.get_arguments()[1:2]:
            self.window.go(word)
        self.window.window.present()
        return 0

    @property
    def window(self) -> ManagerWindow:
        """The window, which exists from the first command line on."""
        assert self._window is not None
        return self._window

    def _begin(self) -> None:
        style = Gtk.CssProvider()
        style.load_from_path(str(_STYLE))
        # Of the texts, which need not be the desktop's.
        Gtk.Widget.set_default_direction(Gtk.TextDirection.LTR)
        Gtk.StyleContext.add_provider_for_display(
            Gdk.Display.get_default(), style, Gtk.STYLE_PROVIDER_PRIORITY_APPLICATION
        )
        self._window = ManagerWindow(
            self._app,
            self._work,
            Readers(self._details, self._users, self._events),
            self._follower.look_again,
        )
        self._window.window.connect("close-request", self._close)
        trio.lowlevel.start_guest_run(
            self._run,
            run_sync_soon_threadsafe=_soon,
            done_callback=self._ended,
            host_uses_signal_set_wakeup_fd=True,
        )

    async def _run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while self._early:
                    nursery.start_soon(self._guarded, self._early.popleft())
                nursery.start_soon(self._follower.run)

    async def _show(self, state: ManagerState) -> None:
        await trio.lowlevel.checkpoint()
        self.window.show(state)

    async def _add_event(self, item: EventItem) -> None:
        await trio.lowlevel.checkpoint()
        row = row_of_item(item)
        if row is not None:
            self.window.add_event(row)

    async def _details(self, row: SandboxRow) -> SandboxDetails:
        return await in_thread(details_of, self._paths, row)

    async def _events(
        self, query: EventQuery, before: EventRow | None
    ) -> list[EventRow]:
        return await in_thread(read_events, self._paths, query, before)

    async def _users(self) -> dict[str, list[str]]:
        return await in_thread(image_users, self._paths)

    def _work(self, call: Callable[[], Awaitable[None]]) -> None:
        if self._nursery is None:
            self._early.append(call)
        else:
            self._nursery.start_soon(self._guarded, call)

    async def _guarded(self, call: Callable[[], Awaitable[None]]) -> None:
        """Run one action; its error is shown and ends nothing else."""
        try:
            await call()
        except (VitrailError, OSError) as error:
            hint = getattr(error, "hint", None) or ""
            text = in_users_language(f"{error}\n{hint}".strip())
            tell(self.window.window, tr("This was not done"), text)

    def _close(self, _window: Any) -> bool:
        self._scope.cancel()
        return False

    def _ended(self, outcome: Any) -> None:
        self._app.quit()
        outcome.unwrap()


def _soon(call: Callable[[], object]) -> None:
    """Have GLib's loop call a function once; from any thread."""
    GLib.idle_add(partial(_once, call), priority=GLib.PRIORITY_DEFAULT)


def _once(call: Callable[[], object]) -> bool:
    call()
    return False
