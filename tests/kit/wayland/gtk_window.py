"""A window of GTK 3 or 4 that tells what a person does to it.

    python3 gtk_window.py 3|4 FILE

runs inside a sandbox, with the system's Python.  It has an entry, a button
with a tooltip, a menu with a menu in it, and a combo box, each at a place of
its own in an area of ``AREA`` below the title bar.  FILE gets a line for each
thing that was done: ``typed hello``, ``activated hello``, ``chosen inner``.
"""

from __future__ import annotations

import sys

AREA = (480, 320)
ENTRY = (20, 20)
TIP = (20, 90)
MENU = (20, 160)
COMBO = (20, 230)
WIDE, HIGH = 200, 40
TOOLTIP = "what this button is for"
ITEMS = ("upper", "more", "lower")
INNER = ("first", "inner", "last")
CHOICES = ("red", "green", "blue")


class Window:
    """The part that GTK 3 and GTK 4 share."""

    def __init__(self, gtk, gio, told) -> None:
        self.gtk, self.gio, self._told = gtk, gio, told
        self.area = gtk.Fixed()
        self.area.set_size_request(*AREA)
        self.actions = gio.SimpleActionGroup()
        entry, tip = gtk.Entry(), gtk.Button(label="rest here")
        entry.connect("changed", lambda e: self.tell("typed", e.get_text()))
        entry.connect("activate", lambda e: self.tell("activated", e.get_text()))
        tip.set_tooltip_text(TOOLTIP)
        tip.connect("clicked", lambda _: self.tell("pressed", "button"))
        combo = gtk.ComboBoxText()
        for word in CHOICES:
            combo.append_text(word)
        combo.set_active(0)
        combo.connect("changed", lambda c: self.tell("picked", c.get_active_text()))
        for widget, at in (
            (entry, ENTRY), (tip, TIP), (self.menu(), MENU), (combo, COMBO),
        ):  # fmt: skip
            widget.set_size_request(WIDE, HIGH)
            self.area.put(widget, *at)
        self.entry = entry

    def tell(self, what: str, word: str) -> None:
        self._told.write(f"{what} {word}\n")
        self._told.flush()

    def menu(self):
        button = self.gtk.MenuButton()
        model, inner = self.gio.Menu(), self.gio.Menu()
        for word in INNER:
            inner.append(word, f"win.{word}")
        model.append(ITEMS[0], f"win.{ITEMS[0]}")
        model.append_submenu(ITEMS[1], inner)
        model.append(ITEMS[2], f"win.{ITEMS[2]}")
        for word in {*ITEMS, *INNER} - {"more"}:
            action = self.gio.SimpleAction.new(word, None)
            action.connect("activate", lambda a, _: self.tell("chosen", a.get_name()))
            self.actions.add_action(action)
        if hasattr(self.gtk, "PopoverMenu") and hasattr(self.gtk, "PopoverMenuFlags"):
            nested = self.gtk.PopoverMenuFlags.NESTED
            button.set_popover(self.gtk.PopoverMenu.new_from_model_full(model, nested))
        else:
            button.set_use_popover(False)
            button.set_menu_model(model)
        return button


def main() -> None:
    import gi

    version, place = sys.argv[1:]
    gi.require_version("Gtk", f"{version}.0")
    from gi.repository import Gio, GLib, Gtk

    with open(place, "w") as told:
        made = Window(Gtk, Gio, told)
        window = Gtk.Window(title=f"gtk {version}")
        window.insert_action_group("win", made.actions)
        loop = GLib.MainLoop()
        if version == "3":
            window.set_titlebar(Gtk.HeaderBar(title="gtk 3", show_close_button=True))
            window.add(made.area)
            window.connect("destroy", lambda _: loop.quit())
            window.show_all()
        else:
            window.set_titlebar(Gtk.HeaderBar())
            window.set_child(made.area)
            window.connect("close-request", lambda _: loop.quit())
            window.present()
        made.entry.grab_focus()
        made.tell("ready", version)
        loop.run()


if __name__ == "__main__":
    main()
