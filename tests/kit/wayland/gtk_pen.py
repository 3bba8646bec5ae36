"""A window of GTK 4 that writes down what a pen does to it.

    python3 gtk_pen.py FILE

runs with the system's Python.  FILE gets a line for each event: its name, the kind of the
tool, the place in the window's content and the pressure.
"""

from __future__ import annotations

import sys

SIZE = (240, 160)


def main(path: str) -> None:
    """Show the window until killed."""
    import gi

    gi.require_version("Gtk", "4.0")
    from gi.repository import Gdk, GLib, Gtk

    loop = GLib.MainLoop()
    Gtk.init()
    window, area = Gtk.Window(), Gtk.DrawingArea()
    window.set_decorated(False)
    window.set_child(area)
    window.set_default_size(*SIZE)

    def tell(name: str, gesture: Gtk.GestureStylus, x: float, y: float) -> None:
        tool = gesture.get_device_tool()
        kind = tool.get_tool_type().value_nick if tool is not None else "none"
        known, pressure = gesture.get_axis(Gdk.AxisUse.PRESSURE)
        line = f"{name} {kind} {x:.0f} {y:.0f} {pressure if known else -1:.2f}\n"
        with open(path, "a") as out:
            out.write(line)

    pen = Gtk.GestureStylus()
    for name in ("proximity", "down", "motion", "up"):
        pen.connect(name, lambda g, x, y, name=name: tell(name, g, x, y))
    area.add_controller(pen)
    window.present()
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1])
