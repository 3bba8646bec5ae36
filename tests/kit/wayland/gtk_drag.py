"""A window of GTK 3 or 4: drags begin in its left half, and drop on its right.

    python3 gtk_drag.py 3|4 TITLE FILE text|file CONTENT

runs inside a sandbox, with the system's Python.  FILE gets a line for each
thing that came: ``motion`` once for each drag over it, ``dropped CONTENT``.
"""

from __future__ import annotations

import sys

SIZE = (300, 200)


class Half:
    """The part that GTK 3 and GTK 4 share."""

    def __init__(self, place: str) -> None:
        self._told = open(place, "w")  # noqa: SIM115 -- as long as the program
        self._over = False

    def tell(self, words: str) -> None:
        self._told.write(f"{words}\n")
        self._told.flush()

    def over(self) -> None:
        if not self._over:
            self._over = True
            self.tell("motion")

    def out(self) -> None:
        self._over = False


def gtk3(title: str, half: Half, kind: str, content: str) -> None:
    from gi.repository import Gdk, Gtk

    window = Gtk.Window(title=title)
    window.set_default_size(*SIZE)
    row = Gtk.Box(homogeneous=True)
    source, target = Gtk.EventBox(), Gtk.EventBox()
    source.add(Gtk.Label(label="from here"))
    target.add(Gtk.Label(label="to here"))
    row.pack_start(source, True, True, 0)
    row.pack_start(target, True, True, 0)
    window.add(row)
    source.drag_source_set(Gdk.ModifierType.BUTTON1_MASK, [], Gdk.DragAction.COPY)
    target.drag_dest_set(Gtk.DestDefaults.ALL, [], Gdk.DragAction.COPY)
    target.drag_dest_add_text_targets()
    if kind == "file":
        source.drag_source_add_uri_targets()
    source.drag_source_add_text_targets()

    def give(_widget, _context, data, _info, _time):
        if not data.set_uris(content.split()):
            data.set_text(content, -1)

    def came(_widget, _context, _x, _y, data, _info, _time):
        half.tell(f"dropped {data.get_text()}")

    source.connect("drag-data-get", give)
    target.connect("drag-motion", lambda *_: half.over())
    target.connect("drag-leave", lambda *_: half.out())
    target.connect("drag-data-received", came)
    window.connect("destroy", lambda _: Gtk.main_quit())
    window.connect("map-event", lambda *_: half.tell("ready"))
    window.show_all()
    Gtk.main()


def gtk4(title: str, half: Half, kind: str, content: str) -> None:
    from gi.repository import Gdk, Gio, GLib, GObject, Gtk

    loop = GLib.MainLoop()
    window = Gtk.Window(title=title)
    window.set_default_size(*SIZE)
    row = Gtk.Box(homogeneous=True)
    source, target = Gtk.Label(label="from here"), Gtk.Label(label="to here")
    for label in (source, target):
        label.set_hexpand(True)
        label.set_vexpand(True)
        row.append(label)
    window.set_child(row)
    drag = Gtk.DragSource(actions=Gdk.DragAction.COPY)
    value = GObject.Value(str, content)
    if kind == "file":
        files = [Gio.File.new_for_uri(uri) for uri in content.split()]
        value = GObject.Value(Gdk.FileList, Gdk.FileList.new_from_list(files))
    drag.connect("prepare", lambda *_: Gdk.ContentProvider.new_for_value(value))
    source.add_controller(drag)
    drop = Gtk.DropTarget.new(str, Gdk.DragAction.COPY)

    def over(*_):
        half.over()
        return Gdk.DragAction.COPY

    def came(_drop, text, _x, _y):
        half.tell(f"dropped {text}")
        return True

    drop.connect("enter", over)
    drop.connect("leave", lambda *_: half.out())
    drop.connect("drop", came)
    target.add_controller(drop)
    window.connect("close-request", lambda _: loop.quit())
    window.connect("map", lambda *_: half.tell("ready"))
    window.present()
    loop.run()


def main() -> None:
    import gi

    version, title, place, kind, content = sys.argv[1:]
    gi.require_version("Gtk", f"{version}.0")
    gi.require_version("Gdk", f"{version}.0")
    half = Half(place)
    if version == "3":
        gtk3(title, half, kind, content)
    else:
        gtk4(title, half, kind, content)


if __name__ == "__main__":
    main()
