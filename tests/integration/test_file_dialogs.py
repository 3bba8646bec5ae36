"""File dialogs of programs in a sandbox are those of a real desktop.

xdg-desktop-portal with its GTK part on the desktop, GTK programs in the guests, which
are processes, so that no machine is booted.
"""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from broker.core.errors import UpstreamError, VitrailError
from broker.core.transfer.entries import left_out_text
from broker.helpers.process.spawn import DEVNULL, run_tool, spawn
from tests.integration.test_desktop_settings import PORTAL
from tests.kit.desktop_portal import desktop_portal
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notifying
from tests.kit.needs import requires
from tests.kit.wayland.browsing import clicked
from tests.kit.wayland.compositor import short_directory, wait_window, windows
from tests.kit.wayland.input import CONTROL, Keyboard

pytestmark = requires("waypipe", "mako", "dbus-daemon", "gdbus", "wtype")
PROPERTY = "org.freedesktop.DBus.Properties.Get"
ENTER, ESCAPE, PACE_SECONDS = 28, 1, 0.4
GTK_DELETE_EVENT, GTK_CANCEL = -4, -6
RULES = "vitrail.FileDialog * work @adminvm allow\n"
ASKS = """
import sys, gi
gi.require_version("Gtk", sys.argv[1])
from gi.repository import Gio, GLib, Gtk
Gtk.init() if sys.argv[1] == "4.0" else Gtk.init([])
loop = GLib.MainLoop()
action = getattr(Gtk.FileChooserAction, sys.argv[2])
dialog = Gtk.FileChooserNative.new("its own title", None, action, None, None)
dialog.set_select_multiple(len(sys.argv) > 4) if action != 1 else None
text = Gtk.FileFilter()
text.set_name("Plain text")
text.add_pattern("*.txt")
dialog.add_filter(text)
if sys.argv[2] == "SAVE":
    dialog.set_current_name(sys.argv[3])
def answered(_, code):
    paths = []
    if code == Gtk.ResponseType.ACCEPT:
        one = dialog.get_file()
        files = dialog.get_files()
        if sys.argv[1] == "4.0":
            files = [files.get_item(n) for n in range(files.get_n_items())]
        paths = [file if isinstance(file, str) else file.get_path() for file in files]
    for path in paths:
        path = path.removeprefix("file://")
        print("path", path, flush=True)
        if sys.argv[2] == "SAVE":
            for word in sys.argv[3:]:
                Gio.File.new_for_path(path).replace_contents(word.encode(), None, False, 0, None)
    print("answered", int(code), flush=True)
    if sys.argv[2] != "SAVE":
        loop.quit()
dialog.connect("response", answered)
dialog.show()
print("shown", flush=True)
loop.run()
"""


@asynccontextmanager
async def two(rules=RULES, start=None):
    """Two guests at a desktop whose dialogs begin in the folder ``start``, if one is given."""
    with short_directory() as config:
        more = {}
        if start:
            (config / "glib-2.0/settings").mkdir(parents=True)
            (config / "glib-2.0/settings/keyfile").write_text(
                "[org/gtk/settings/file-chooser]\nstartup-mode='cwd'\n"
            )
            more = {"GSETTINGS_BACKEND": "keyfile", "XDG_CONFIG_HOME": str(config)}
        async with (
            notifying(rules, "work", "personal") as (w, screen, guests),
            desktop_portal(screen.env, more=more, cwd=start or "/"),
            bus_of(guests["work"]),
            bus_of(guests["personal"]),
        ):
            yield w, screen, guests["work"], guests["personal"]


class Asking:
    """A GTK program of a guest that shows a file dialog."""

    def __init__(self, said):
        self._said = said

    def lines(self):
        return self._said.read_text().splitlines()

    async def answered(self):
        """The paths that it got, once it was answered."""
        await eventually(lambda: any("answered" in line for line in self.lines()))
        return [Path(one[5:]) for one in self.lines() if one.startswith("path ")]


@asynccontextmanager
async def asking(screen, guest, *words, program=ASKS):
    """Run the program of ``ASKS``."""
    said = guest.folder / f"said-{os.urandom(4).hex()}"
    env = {**guest.env, **screen.comp.environment}
    env["DBUS_SESSION_BUS_ADDRESS"] = guest.env["DBUS_SESSION_BUS_ADDRESS"]
    env |= {"GTK_USE_PORTAL": "1", "GDK_DEBUG": "portals"}
    env["QT_QPA_PLATFORMTHEME"] = "xdgdesktopportal"
    env["QT_QPA_PLATFORM"] = "wayland"
    with said.open("w") as out:
        child = spawn(
            ["/usr/bin/python3", "-c", program, *words], env=env, stdout=out, stderr=out
        )
    try:
        await eventually(lambda: "shown" in said.read_text())
        yield Asking(said)
    finally:
        await child.stop()


async def open_dialogs(screen, title):
    """The desktop's windows of this title."""
    found = windows(await screen.comp.tree())
    return [one for one in found if title in (one["name"] or "")]


async def choose(screen, title):
    """Take the folder in which the desktop's dialog of this title has begun."""
    await wait_window(screen.comp, title=title)
    with Keyboard(screen.comp.display) as keyboard:

        async def gone():
            keyboard.press(ENTER)
            with trio.move_on_after(2):
                while await open_dialogs(screen, title):
                    await trio.sleep(0.1)
            return not await open_dialogs(screen, title)

        await eventually(gone)


async def pick(screen, title, path, *, all_of_it=False):
    """Paste a file's path into the desktop's dialog of this title, until it has gone.

    Typed, it would be completed while it grows, and parts of it are names of their own.
    ``all_of_it``: enter the folder, and take all files that the list shows.
    """
    await wait_window(screen.comp, title=title)
    env = {**screen.comp.environment, **screen.env}
    copy = spawn(["wl-copy", "--foreground", "--", str(path)], env=env)

    async def ready():
        # A key before the focus is lost, and ENTER would take the name that is suggested
        # in place of a path that is pasted late.
        focused = any(one["focused"] for one in await open_dialogs(screen, title))
        with suppress(UpstreamError):  # nothing is copied yet
            pasted = await run_tool(["wl-paste", "--no-newline"], env=env)
            return focused and pasted.decode() == str(path)
        return False

    with Keyboard(screen.comp.display) as keyboard:

        async def gone():
            for step in (
                lambda: keyboard.type("/"),  # opens the line for a path
                lambda: keyboard.chord(CONTROL, "a"),
                lambda: keyboard.chord(CONTROL, "v"),
                lambda: keyboard.press(ENTER),
                *(
                    (
                        lambda: keyboard.chord(CONTROL, "a"),
                        lambda: keyboard.press(ENTER),
                    )
                    if all_of_it
                    else ()
                ),
            ):
                step()
                await trio.sleep(PACE_SECONDS)
            with trio.move_on_after(3):
                while await open_dialogs(screen, title):
                    await trio.sleep(0.1)
            return not await open_dialogs(screen, title)

        try:
            await eventually(ready)
            await eventually(gone)
        finally:
            await copy.stop()


async def test_gtk_programs_open_and_save_files_that_the_user_chooses(tmp_path):
    file, saved = tmp_path / "notes.txt", tmp_path / "saved.txt"
    file.write_text("content")
    async with two() as (w, screen, work, personal):
        async with asking(screen, work, "4.0", "OPEN") as program:
            await pick(screen, "work: open files", file)
            (copy,) = await program.answered()
            assert copy == work.home / "Incoming/desktop/notes.txt"
            assert copy.read_text() == "content"
        words = ("4.0", "SAVE", "first.txt", "second")
        async with asking(screen, work, *words) as program:
            await pick(screen, "work: save a file", saved)
            (copy,) = await program.answered()
            assert copy == work.home / "Incoming/desktop/saved.txt"
            await eventually(lambda: saved.exists() and saved.read_text() == "second")
            assert saved.stat().st_mode & 0o777 == 0o600
            # Whatever is saved later goes there, too.
            copy.write_text("third")
            await eventually(lambda: saved.read_text() == "third")
            # But not over what the user has changed.
            saved.write_text("changed at the desktop")
            copy.write_text("fourth")
            notice = await screen.one_with("saved.txt was changed here")
            assert notice[1].startswith("work")
            assert saved.read_text() == "changed at the desktop"
        # Without a rule programs are offered nothing, and use their dialogs.
        words = (PROPERTY, "org.freedesktop.portal.FileChooser", "version")
        with pytest.raises(VitrailError, match="does not provide"):
            await run_tool([*PORTAL, *words], env=personal.env)
        decided = w.events("decision", service="vitrail.FileDialog")
        assert {one["sandbox"] for one in decided} == {"work"}
        begun = w.events("transfer.begin", service="vitrail.FileDialog")
        assert [one["object"] for one in begun] == ["notes.txt", "saved.txt"]
        await w.wait_event(
            "transfer.end", service="vitrail.FileDialog", outcome="failed"
        )
        ended = w.events("transfer.end", service="vitrail.FileDialog")
        assert [one["outcome"] for one in ended] == ["done", "failed"]
        await eventually(lambda: len(w.events("transfer.returned")) >= 2)


@pytest.mark.parametrize("version", ["3.0", "4.0"])
async def test_place_that_cannot_be_saved_to_reaches_program_and_user(version):
    """The program got a path, and reported a saved file that was nowhere."""
    async with (
        two() as (w, screen, work, _personal),
        asking(screen, work, version, "SAVE", "first.txt", "second") as program,
    ):
        await pick(screen, "work: save a file", "/first.txt")
        notice = await screen.one_with("you cannot save in the folder /")
        assert "choose another folder, such as your Downloads" in notice[2]
        assert await program.answered() == []
        assert f"answered {GTK_DELETE_EVENT}" in program.lines()
        assert not w.events("transfer.begin", service="vitrail.FileDialog")


@pytest.mark.parametrize("version", ["3.0", "4.0"])
async def test_program_goes_on_after_dismissed_dialog(version):
    """GTK reads the chosen addresses of every answer, and got none of a dismissed one."""
    async with (
        two() as (_w, screen, work, _personal),
        asking(screen, work, version, "SAVE", "first.txt", "second") as program,
    ):
        await wait_window(screen.comp, title="work: save a file")
        with Keyboard(screen.comp.display) as keyboard:

            async def press_escape():
                keyboard.press(ESCAPE)
                return not await open_dialogs(screen, "work: save a file")

            await eventually(press_escape)
        assert await program.answered() == []
        assert f"answered {GTK_CANCEL}" in program.lines()


SAVES = """
import sys, gi
from gi.repository import Gio, GLib
bus = Gio.bus_get_sync(Gio.BusType.SESSION, None)
loop = GLib.MainLoop()
def answered(_bus, _sender, _path, _interface, _signal, body):
    code, results = body.unpack()
    for number, uri in enumerate(results.get("uris", ())):
        file = Gio.File.new_for_uri(uri)
        print("path", file.get_path(), flush=True)
        file.replace_contents(b"content %d" % number, None, False, 0, None)
    print("answered", code, flush=True)
bus.signal_subscribe(None, "org.freedesktop.portal.Request", "Response", None, None, 0, answered)
names = GLib.Variant("aay", [name.encode() + bytes(1) for name in sys.argv[1:]])
options = {"files": names}
place = ("org.freedesktop.portal.Desktop", "/org/freedesktop/portal/desktop")
body = GLib.Variant("(ssa{sv})", ("", "its own title", options))
bus.call_sync(*place, "org.freedesktop.portal.FileChooser", "SaveFiles", body, None, 0, -1, None)
print("shown", flush=True)
loop.run()
"""
QT = """
import sys
from PyQt6.QtCore import QTimer
from PyQt6.QtWidgets import QApplication, QFileDialog
app = QApplication(sys.argv[:1])
def ask():
    print("shown", flush=True)
    if sys.argv[1] == "OPEN":
        paths, _ = QFileDialog.getOpenFileNames(None, "its own title", "", "Text (*.txt)")
    elif sys.argv[1] == "FOLDER":
        paths = [QFileDialog.getExistingDirectory(None, "its own title")]
    else:
        paths = [QFileDialog.getSaveFileName(None, "its own title", "first.txt")[0]]
    for path in paths:
        print("path", path, flush=True)
        if sys.argv[1] == "SAVE":
            open(path, "w").write("of Qt")
    print("answered", flush=True)
QTimer.singleShot(2000, ask)
app.exec()
"""
QT_THEME = Path(
    "/usr/lib/x86_64-linux-gnu/qt6/plugins/platformthemes/libqxdgdesktopportal.so"
)


async def test_several_files_are_saved_in_a_folder_that_the_user_chooses():
    with short_directory() as folder:
        async with (
            two() as (w, screen, work, _personal),
            _downloads(w, folder),
            asking(screen, work, "a.txt", "b.txt", program=SAVES) as asked,
        ):
            await choose(screen, "work: save files")
            copies = await asked.answered()
            assert [one.name for one in copies] == ["a.txt", "b.txt"]
            for number, name in enumerate(("a.txt", "b.txt")):
                file, text = folder / name, f"content {number}"
                await eventually(
                    lambda file=file, text=text: (
                        file.exists() and file.read_text() == text
                    )
                )
            # Each changes separately from then on.
            copies[1].write_text("again")
            await eventually(lambda: (folder / "b.txt").read_text() == "again")
            assert (folder / "a.txt").read_text() == "content 0"
            begun = await w.only_event("transfer.begin", service="vitrail.FileDialog")
            assert begun["object"] == "a.txt, b.txt"


async def test_several_files_are_opened():
    async with _folder() as folder, two() as (w, screen, work, _personal):
        (folder / "other.txt").write_text("of the other")
        (folder / "picture.png").write_text("the filter does not show it")
        async with asking(screen, work, "4.0", "OPEN", "", "several") as program:
            way = f"{folder}/"
            await pick(screen, "work: open files", way, all_of_it=True)
            copies = await program.answered()
        assert {one.name: one.read_text() for one in copies} == {
            "notes.txt": "content",
            "other.txt": "of the other",
        }
        assert {one.parent for one in copies} == {work.home / "Incoming/desktop"}
        begun = await w.only_event("transfer.begin", service="vitrail.FileDialog")
        assert begun["object"] == "notes.txt, other.txt"


async def test_folder_with_a_link_is_copied_and_the_rest_reported():
    async with (
        _folder() as folder,
        two(start=folder) as (_w, screen, work, _personal),
    ):
        (folder / "latest").symlink_to("notes.txt")
        async with asking(screen, work, "4.0", "SELECT_FOLDER", "") as program:
            await choose(screen, "work: open a folder")
            (copy,) = await program.answered()
        assert os.listdir(copy) == ["notes.txt"]

        async def reported():
            return [n for n in await screen.shown() if "not copied" in n[1]]

        (notice,) = await eventually(reported)
        assert notice[1] == "work: some of the chosen files were not copied"
        assert left_out_text(1) in notice[2]
        assert "folder/latest" in notice[2]
        assert work.home / "Incoming/desktop" == copy.parent


@asynccontextmanager
async def _downloads(w, folder):
    """Make a folder the one for the downloads of the user."""
    settings = Path(w.environ["XDG_CONFIG_HOME"], "user-dirs.dirs")
    settings.write_text(f'XDG_DOWNLOAD_DIR="{folder}"\n')
    yield


@asynccontextmanager
async def _folder():
    """A folder with a file, by a short path."""
    with short_directory() as top:
        (top / "folder").mkdir()
        (top / "folder/notes.txt").write_text("content")
        yield top / "folder"


@pytest.mark.skipif(not QT_THEME.exists(), reason="no portal theme for Qt 6")
@pytest.mark.parametrize("kind", ["OPEN", "FOLDER", "SAVE"])
async def test_qt_6_programs_have_the_dialogs_of_the_desktop(kind):
    async with (
        _folder() as folder,
        two(start=folder if kind == "FOLDER" else None) as (
            _w,
            screen,
            work,
            _personal,
        ),
        asking(screen, work, kind, program=QT) as program,
    ):
        if kind == "OPEN":
            await pick(screen, "work: open files", folder / "notes.txt")
            (copy,) = await program.answered()
            assert copy == work.home / "Incoming/desktop/notes.txt"
        elif kind == "FOLDER":
            await choose(screen, "work: open a folder")
            (copy,) = await program.answered()
            assert (copy / "notes.txt").read_text() == "content"
        else:
            await pick(screen, "work: save a file", folder / "saved.txt")
            await program.answered()
            saved = folder / "saved.txt"
            await eventually(lambda: saved.exists() and saved.read_text() == "of Qt")


@pytest.mark.long
async def test_gtk_3_programs_open_a_file_again_under_another_name(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("content")
    async with two() as (_w, screen, work, _personal):
        for name in ("notes.txt", "notes (1).txt"):
            async with asking(screen, work, "3.0", "OPEN") as program:
                await pick(screen, "work: open files", file)
                (copy,) = await program.answered()
                assert copy == work.home / "Incoming/desktop" / name


CHROMIUM = (
    *("chromium", "--no-sandbox", "--ozone-platform=wayland", "--disable-gpu"),
    *("--no-first-run", "--password-store=basic"),
)
PAGE = """<title>ready</title><input type=file id=f>
<label for=f style="display: block; height: 100vh">Choose</label>
<script>f.onchange = async () => {
document.title = `got ${f.files[0].name}: ${await f.files[0].text()}` }</script>"""


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("chromium"), reason="not installed: chromium")
async def test_chromium_uploads_a_file_that_the_user_chooses(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("content")
    async with two() as (_w, screen, work, _personal):
        (work.home / "page.html").write_text(PAGE)
        env = {**work.env, **screen.comp.environment}
        env["DBUS_SESSION_BUS_ADDRESS"] = work.env["DBUS_SESSION_BUS_ADDRESS"]
        profile = f"--user-data-dir={work.home}/profile"
        page = f"file://{work.home}/page.html"
        child = spawn([*CHROMIUM, profile, page], env=env, stderr=DEVNULL)
        try:
            await wait_window(screen.comp, title="ready")
            await clicked(screen.comp, lambda: open_dialogs(screen, "work: open files"))
            await pick(screen, "work: open files", file)
            await wait_window(screen.comp, title="got notes.txt: content")
        finally:
            await child.stop()
