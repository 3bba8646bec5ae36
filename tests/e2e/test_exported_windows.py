"""xdg-foreign on sway: a dialog of one program over the window of another one."""

from __future__ import annotations

import contextlib
import os
import shutil

import pytest

from broker.helpers.process.spawn import run_tool
from tests.kit.wayland.client import Window
from tests.kit.wayland.stand import stand


async def test_a_dialog_of_another_program_floats_over_its_parent():
    async with stand(config="default_border none\n") as it:

        def inside():
            with contextlib.ExitStack() as programs:
                one = programs.enter_context(Window(it.path).start())
                parent, _, _ = one.show(200, 100, 0xFF00FF00)
                exporter = one.bind("zxdg_exporter_v2")
                exported = one.make(
                    exporter, "export_toplevel", "zxdg_exported_v2", None, parent
                )
                told = one.wait(lambda event: event[0] == exported)
                handle = told[3][0]
                one.roundtrip()
                other = programs.enter_context(Window(it.path).start())
                importer = other.bind("zxdg_importer_v2")
                plain, _, _ = other.show(200, 100, 0xFF0000FF)
                dialog = other.surface()
                xdg, _ = other.toplevel(dialog)
                made = other.make(
                    importer, "import_toplevel", "zxdg_imported_v2", None, handle
                )
                other.send(made, "set_parent_of", dialog)
                other.send(dialog, "commit")
                other.configured(xdg)
                other.paint(dialog, 100, 50, 0xFFFF0000)
                other.send(dialog, "commit")
                other.roundtrip()
                it.settled()
                assert plain
                return it.tree()

        import trio

        found = await trio.to_thread.run_sync(inside)
        assert sorted(node["type"] for node in found) == ["con", "con", "floating_con"]


# As libportal asks for the parent of a portal's dialog.
GTK_3 = """
import ctypes, gi
gi.require_version("Gtk", "3.0")
from gi.repository import GLib, Gtk
gdk = ctypes.CDLL("libgdk-3.so.0")
form = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
loop = GLib.MainLoop()
def told(_window, handle, _data):
    print("handle", handle.decode(), flush=True)
    loop.quit()
callback = form(told)
window = Gtk.Window()
def export():
    pointer = ctypes.c_void_p(hash(window.get_window()))
    if not gdk.gdk_wayland_window_export_handle(pointer, callback, None, None):
        print("no xdg-foreign", flush=True)
        loop.quit()
window.connect("map-event", lambda *_: export())
window.show_all()
GLib.timeout_add_seconds(20, loop.quit)
loop.run()
"""


@pytest.mark.skipif(not shutil.which("gtk3-demo"), reason="GTK 3 is not installed")
async def test_a_window_of_gtk_3_has_a_handle():
    """It knows version 1 alone."""
    async with stand() as it:
        env = {**os.environ, "WAYLAND_DISPLAY": str(it.path), "GDK_BACKEND": "wayland"}
        argv = ["/usr/bin/python3", "-c", GTK_3]
        assert b"handle " in await run_tool(argv, env=env, deadline=60)
