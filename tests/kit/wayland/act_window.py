"""A GTK 3 program that reports what a person does to its windows.

    python3 act_window.py FILE

runs inside a sandbox, with the system's Python.  FILE gets a line for each thing that
was done: ``typed first hello``, ``state maximized``, ``closed dialog``.  Lines
``place NAME x y w h`` have the places of the widgets below the title bar, and ``size w h``
is the size of that area.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # A test reads the colours with another Python, which has no GTK.
    import gi

    gi.require_version("Gtk", "3.0")
    gi.require_version("Gdk", "3.0")
    from gi.repository import Gdk, GLib, Gtk

DIALOG, DROP, CROSS = (0x12, 0x34, 0xAB), (0x8A, 0x5A, 0x12), (0x5A, 0x12, 0x8A)
"""Colours of the dialog, and of the areas that take drops and have another cursor."""
STYLE = b"""
#dialog { background: #1234ab; } #drop { background: #8a5a12; }
#cross { background: #5a128a; } * { transition: none; }
"""
DRAGGED = "carried"


class Acts:
    """The program."""

    def __init__(self, told) -> None:
        self._told = told
        self.window = Gtk.Window(title="acts")
        self.second: Gtk.Window | None = None
        self.dialog: Gtk.Window | None = None
        self.places: dict[str, Gtk.Widget] = {}
        self.was: list[str] = []

    def tell(self, *words) -> None:
        self._told.write(" ".join(map(str, words)) + "\n")
        self._told.flush()

    def _add(self, fixed, name, widget, x, y, w=200, h=40) -> None:
        widget.set_size_request(w, h)
        fixed.put(widget, x, y)
        self.places[name] = widget

    def _entry(self, name) -> Gtk.Entry:
        entry = Gtk.Entry()
        entry.connect("changed", lambda e: self.tell("typed", name, e.get_text()))
        return entry

    def _area(self, name) -> Gtk.EventBox:
        box = Gtk.EventBox(name=name)
        box.add(Gtk.Label(label=name))
        return box

    def _menu(self) -> Gtk.MenuButton:
        menu, inner = Gtk.Menu(), Gtk.Menu()
        for words, into in (
            (("upper", "more", "lower"), menu),
            (("first", "inner"), inner),
        ):
            for word in words:
                item = Gtk.MenuItem(label=word)
                item.connect("activate", lambda i: self.tell("chosen", i.get_label()))
                item.connect("select", lambda i: self.tell("selected", i.get_label()))
                if word == "more":
                    item.set_submenu(inner)
                into.append(item)
        menu.show_all()
        menu.connect("show", lambda _: self.tell("menu shown"))
        menu.connect("hide", lambda _: self.tell("menu hidden"))
        return Gtk.MenuButton(popup=menu, label="menu")

    def build(self) -> None:
        window = self.window
        window.set_titlebar(Gtk.HeaderBar(title="acts", show_close_button=True))
        fixed = Gtk.Fixed()
        fixed.set_size_request(460, 300)
        window.add(fixed)
        self._add(fixed, "first", self._entry("first"), 10, 10)
        self._add(fixed, "second", self._entry("second"), 230, 10)
        tip = Gtk.Button(label="rest here")
        tip.set_tooltip_text("what this button is for")
        tip.connect("clicked", lambda _: self.tell("pressed"))
        tip.connect("query-tooltip", lambda *_: self.tell("tooltip"))
        self._add(fixed, "tip", tip, 10, 60)
        self._add(fixed, "menu", self._menu(), 230, 60)
        combo = Gtk.ComboBoxText()
        for word in ("red", "green", "blue"):
            combo.append_text(word)
        combo.set_active(0)
        combo.connect("changed", lambda c: self.tell("picked", c.get_active_text()))
        self._add(fixed, "combo", combo, 10, 110)
        drag, drop = self._area("drag"), self._area("drop")
        drag.drag_source_set(Gdk.ModifierType.BUTTON1_MASK, [], Gdk.DragAction.COPY)
        drag.drag_source_add_text_targets()
        drag.connect("drag-data-get", lambda *a: a[2].set_text(DRAGGED, -1))
        drag.connect("drag-begin", lambda *_: self.tell("drag begins"))
        self._takes_drops(drop, "first window")
        self._add(fixed, "drag", drag, 10, 160)
        self._add(fixed, "drop", drop, 230, 160)
        cross = self._area("cross")
        cross.connect("realize", _crosshair)
        cross.add_events(Gdk.EventMask.SCROLL_MASK | Gdk.EventMask.SMOOTH_SCROLL_MASK)
        cross.connect("scroll-event", self._scrolled)
        cross.connect("enter-notify-event", lambda *_: self.tell("entered"))
        self._add(fixed, "cross", cross, 10, 210, 420, 80)
        window.connect("key-press-event", self._key)
        self._follow(window, "window")
        window.show_all()
        self.places["first"].grab_focus()

    def _takes_drops(self, widget, name) -> None:
        widget.drag_dest_set(Gtk.DestDefaults.ALL, [], Gdk.DragAction.COPY)
        widget.drag_dest_add_text_targets()
        widget.connect(
            "drag-data-received", lambda *a: self.tell("dropped", name, a[4].get_text())
        )

    def _follow(self, window, name) -> None:
        """Report states, size, focus and the request to close."""
        window.connect("window-state-event", self._state, name)
        window.connect("delete-event", self._closed, name)
        window.connect("size-allocate", lambda *_: GLib.idle_add(self._where))
        for state in ("in", "out"):
            window.connect(
                f"focus-{state}-event",
                lambda _w, _e, s=state: self.tell("focus", name, s),
            )

    def _where(self) -> bool:
        inside = self.window.get_child()
        size = inside.get_allocation()
        lines = [f"size {size.width} {size.height}"]
        for name, widget in self.places.items():
            at = widget.translate_coordinates(inside, 0, 0) or (0, 0)
            wide, high = widget.get_allocated_width(), widget.get_allocated_height()
            lines.append(f"place {name} {at[0]} {at[1]} {wide} {high}")
        if lines != self.was:
            self.was = lines
            for line in lines:
                self.tell(line)
        return False

    def _state(self, _window, event, name) -> None:
        states = [
            word
            for word in ("maximized", "fullscreen", "iconified", "focused")
            if event.new_window_state & getattr(Gdk.WindowState, word.upper())
        ]
        self.tell("state", name, *states)

    def _closed(self, _window, _event, name) -> bool:
        self.tell("closed", name)
        if name == "window":
            return True  # the test goes on
        setattr(self, name, None)
        return False

    def _scrolled(self, _widget, event) -> None:
        if event.is_stop:
            self.tell("fingers lifted")
        _, right, down = event.get_scroll_deltas()
        if right or down:
            self.tell("scrolled", "down" if down > 0 else "up" if down < 0 else "aside")
        elif event.direction in {Gdk.ScrollDirection.UP, Gdk.ScrollDirection.DOWN}:
            self.tell("scrolled", event.direction.value_nick)

    def _key(self, window, event) -> bool:
        name = Gdk.keyval_name(event.keyval)
        self.tell("key", name)
        state = window.get_window().get_state()
        if name == "F1":
            toggle = state & Gdk.WindowState.MAXIMIZED
            (window.unmaximize if toggle else window.maximize)()
        elif name == "F2":
            toggle = state & Gdk.WindowState.FULLSCREEN
            (window.unfullscreen if toggle else window.fullscreen)()
        elif name == "F3":
            window.iconify()
        elif name == "F6":
            self._dialog()
        elif name == "F7":
            self._second()
        elif name == "F8":
            self.places["first"].set_text("")
            self.places["second"].set_text("")
        elif name == "F9":
            window.present()
        else:
            return False
        return True

    def _dialog(self) -> None:
        self.dialog = Gtk.Dialog(title="asks", transient_for=self.window)
        self.dialog.set_default_size(160, 120)
        box = Gtk.EventBox(name="dialog")
        box.set_size_request(160, 120)
        self.dialog.get_content_area().add(box)
        self._follow(self.dialog, "dialog")
        self.dialog.show_all()

    def _second(self) -> None:
        self.second = Gtk.Window(title="second")
        box = self._area("drop")
        box.set_size_request(300, 200)
        self._takes_drops(box, "second window")
        self.second.add(box)
        self._follow(self.second, "second")
        self.second.show_all()


def _crosshair(widget) -> None:
    cursor = Gdk.Cursor.new_from_name(widget.get_display(), "crosshair")
    widget.get_window().set_cursor(cursor)


def main() -> None:
    provider = Gtk.CssProvider()
    provider.load_from_data(STYLE)
    Gtk.StyleContext.add_provider_for_screen(
        Gdk.Screen.get_default(), provider, Gtk.STYLE_PROVIDER_PRIORITY_APPLICATION
    )
    with open(sys.argv[1], "w") as told:
        Acts(told).build()
        GLib.MainLoop().run()


if __name__ == "__main__":
    main()
