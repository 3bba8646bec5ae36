"""Bug reports of portals and of proxies of a session bus, replayed: docs/reports.md."""

from __future__ import annotations

import msgspec
import pytest

from broker.ipc.guest.file_requests import FileFilter
from broker.session.dialogs import _filter_row
from shims.files.dialogs import request_of
from tests.integration.test_box_session_bus import boxes, in_box
from tests.kit.needs import PID_NAMESPACES, needs, requires

pytestmark = [PID_NAMESPACES, needs("bwrap", "bubblewrap"), needs("mako", "mako-notifier"),
    requires("dbus-daemon", "gdbus", "/usr/lib/python3/dist-packages/gi"),
]  # fmt: skip
TO_ONE = """
import sys
from gi.repository import Gio, GLib
loop, got = GLib.MainLoop(), []
def bus():
    return Gio.DBusConnection.new_for_address_sync(
        Gio.dbus_address_get_for_bus_sync(Gio.BusType.SESSION),
        Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
        | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION,
    )
parent, child, other = bus(), bus(), bus()
def heard(name):
    return lambda *words: (got.append((name, words[5].unpack())), loop.quit())
for name, one in (("parent", parent), ("other", other)):
    one.signal_subscribe(None, "test.Ipc", None, None, None,
                         Gio.DBusSignalFlags.NONE, heard(name))
    one.call_sync("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "GetId",
                  None, None, Gio.DBusCallFlags.NONE, -1)
child.emit_signal(parent.get_unique_name(), "/test", "test.Ipc", "Ready",
                  GLib.Variant("(s)", ("hello",)))
GLib.timeout_add_seconds(20, loop.quit)
loop.run()
print(got)
"""


@pytest.mark.slow
async def test_a_signal_for_one_program_of_a_box_reaches_it_and_no_other():
    async with boxes() as (w, _):
        code, said = await in_box(w, "work", f"/usr/bin/python3 -c '{TO_ONE}'")
    assert (code, said) == (0, "[('parent', ('hello',))]\n")


@pytest.mark.slow
async def test_a_requests_path_is_that_of_the_programs_unique_name_and_token():
    """As the portal's page says: a program listens there before it calls."""
    call = (
        "gdbus call --session --dest org.freedesktop.portal.Desktop"
        " --object-path /org/freedesktop/portal/desktop"
        " --method org.freedesktop.portal.OpenURI.OpenURI"
        """ '' https://a.test/ "{'handle_token': <'token_7'>}" """
    )
    async with boxes() as (w, _):
        code, said = await in_box(w, "work", call)
    assert code == 0, said
    start, *sender, token = said.split("'")[1].rsplit("/", 2)
    assert start == "/org/freedesktop/portal/desktop/request"
    assert sender[0].startswith("1_"), said
    assert token == "token_7"


def test_a_filter_without_a_name_is_taken():
    options = {"filters": [("", [(0, "*.xlsm")]), ("All", [(0, "*")])]}
    (first, _) = request_of("SaveFile", options)["filters"]
    row = _filter_row(msgspec.convert(first, FileFilter))
    assert row == ("*", [(0, "*.xlsm")]), "the desktop's portal takes no empty name"


@pytest.mark.parametrize("path", [b"/home/user/Downloads/new.txt\0", b"new.txt"])
def test_a_file_that_is_not_there_yet_gives_its_name(path):
    options = {"current_file": list(path), "current_folder": list(b"/nowhere\0")}
    assert request_of("SaveFile", options)["name"] == "new.txt"
