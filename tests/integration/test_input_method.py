"""Chinese in sandboxes, by the desktop's own input method: fcitx5 on a real sway.

The keys are those of a keyboard of the desktop.  The input method takes them from the
compositor, and the sandbox's program gets the text (text-input-unstable-v3).
"""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.clipboard.stand import C, V, desk
from tests.kit.eventually import eventually
from tests.kit.vm.newer_suite import SUITE
from tests.kit.vm.suite_root import inside, suite_root
from tests.kit.wayland.apps import boxed
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.wayland.input import Keyboard
from tests.kit.wayland.input_method import NEEDED, pinyin
from tests.kit.wayland.stand import stand, unchanged

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason="fcitx5 and dbus-daemon are needed"
)
SUPER, SHIFT = 125, 42
GTK4 = """
import sys, gi
gi.require_version("Gtk", "4.0")
from gi.repository import Gtk
def start(app):
    window = Gtk.ApplicationWindow(application=app, title="entry")
    Gtk.Settings.get_default().props.gtk_cursor_blink = False
    entry = Gtk.Entry()
    entry.connect("changed", lambda e: open(sys.argv[1], "w").write(e.get_text()))
    window.set_child(entry)
    window.set_default_size(500, 120)
    window.present()
app = Gtk.Application(application_id="test.entry")
app.connect("activate", start)
app.run()
"""
QT6 = """
import sys
from PyQt6.QtWidgets import QApplication, QLineEdit
app = QApplication(sys.argv)
app.setCursorFlashTime(0)
entry = QLineEdit()
entry.setWindowTitle("entry")
entry.textChanged.connect(lambda text: open(sys.argv[1], "w").write(text))
entry.resize(500, 120)
entry.show()
app.exec()
"""
QT6_PACKAGES = ("python3-pyqt6", "qt6-wayland")


async def picture(it, name):
    image = await unchanged(it.comp, 0.2)
    if out := os.environ.get("VITRAIL_OUT"):
        image.save(f"{out}/input-method-{name}.png")
    return image


async def typed(it, name, there):
    """Type a word of Pinyin until its characters are there; as fcitx5 takes them."""
    with Keyboard(it.comp.display) as keys:

        async def found():
            await trio.to_thread.run_sync(keys.type, "nihao ")
            return there()

        await eventually(found)
        await picture(it, name)


@pytest.mark.parametrize("way", ["filtered", "boxed"])
async def test_chinese_is_typed_into_gtk_4(way, tmp_path):
    async with stand() as it, pinyin(it.comp):
        if way == "boxed":
            tmp_path.chmod(0o777)
            words = ("/usr/bin/python3", "-c", GTK4, "/shared/text")
            box = boxed(it, *words, shared=tmp_path)
        else:
            it.run("/usr/bin/python3", "-c", GTK4, str(tmp_path / "text"))
            box = nullcontext()
        text = tmp_path / "text"
        async with box:
            await wait_window(it.comp, title="[work] entry")
            await typed(
                it, f"gtk4-{way}", lambda: text.exists() and "你好" in text.read_text()
            )
            if way == "filtered":
                assert it.ends == []


async def test_chinese_is_typed_into_a_terminal(tmp_path):
    text = tmp_path / "text"
    async with stand() as it, pinyin(it.comp):
        it.run("foot", "sh", "-c", f"stty raw; exec cat > {text}", LANG="C.UTF-8")
        await wait_window(it.comp, title="[work] foot")
        await typed(it, "foot", lambda: text.exists() and "你好" in text.read_text())
        assert it.ends == []


@pytest.mark.long  # its root is made
async def test_chinese_is_typed_into_qt_6_of_a_newer_debian(tmp_path):
    root = await trio.to_thread.run_sync(suite_root, SUITE, QT6_PACKAGES)
    text = tmp_path / "text"
    async with stand() as it, pinyin(it.comp):
        box = inside(root, str(it.path), str(tmp_path), "/usr/share/fonts")
        words = ("/usr/bin/python3", "-c", QT6, str(text))
        it.run(*box, *words, QT_QPA_PLATFORM="wayland", LANG="C.UTF-8")
        await wait_window(it.comp, title="[work] entry")
        await typed(it, "qt6", lambda: text.exists() and "你好" in text.read_text())
        assert it.ends == []


async def test_qt_6_of_debian_12_has_no_input_method_without_us_either(tmp_path):
    """Its client knows versions 1 and 2 of the protocol, sway has version 3."""
    said = tmp_path / "said"
    async with stand() as it, pinyin(it.comp):
        environment = {**it.comp.environment, "LANG": "C.UTF-8"}
        environment |= {"QT_QPA_PLATFORM": "wayland", "WAYLAND_DEBUG": "1"}
        words = ["/usr/bin/python3", "-c", QT6, str(tmp_path / "text")]
        with said.open("w") as out:
            child = spawn(words, env=environment, stdout=DEVNULL, stderr=out)
        it.children.append(child)
        await wait_window(it.comp, title="entry")
        text = tmp_path / "text"
        await typed(
            it, "qt6-old", lambda: text.exists() and "nihao " in text.read_text()
        )
    offered, *bound = [
        line for line in said.read_text().splitlines() if "zwp_text_input" in line
    ]
    assert '"zwp_text_input_manager_v3"' in offered
    assert not [line for line in bound if ".global(" not in line]


async def test_the_clipboards_chords_pass_pinyin(tmp_path):
    """Also while a word is composed."""
    text = tmp_path / "text"
    async with desk("work") as it, pinyin(it.comp):
        it.run("work", "/usr/bin/python3", "-c", GTK4, str(text))
        await wait_window(it.comp, title="[work] entry")

        async def found():
            await trio.to_thread.run_sync(it.keyboard.type, "nihao ")
            return text.exists() and "你好" in text.read_text()

        # At a person's pace: fcitx5 works off hundreds of keys one after the other, and
        # a chord behind them comes when it has, also to a program without a sandbox.
        await eventually(found, every=2)
        for composed in ("", "ni"):
            await trio.to_thread.run_sync(it.keyboard.type, composed)
            for code in (C, V):
                before = len(it.records)
                await it.press(code, SUPER, SHIFT)
                await eventually(lambda before=before: len(it.records) > before)


# A caret that blinks would keep the picture from standing still.
PAGE = """data:text/html,<title>page</title><textarea autofocus rows=4 cols=40
style="caret-color:transparent" oninput="document.title=this.value"></textarea>"""


async def test_chinese_is_typed_into_chromium(tmp_path):
    async with stand() as it, pinyin(it.comp):
        words = ["--ozone-platform=wayland", "--enable-wayland-ime"]
        words += ["--wayland-text-input-version=3", "--no-first-run", "--no-sandbox"]
        words += ["--disable-gpu", f"--user-data-dir={tmp_path}", f"--app={PAGE}"]
        it.run("chromium", *words, HOME=str(tmp_path))
        await wait_window(it.comp, title="[work] page")
        titles = []

        async def look():
            titles[:] = [w["name"] for w in windows(await it.comp.tree())]

        with Keyboard(it.comp.display) as keys:

            async def found():
                await trio.to_thread.run_sync(keys.type, "nihao ")
                await look()
                return any("你好" in title for title in titles)

            await eventually(found)
            await picture(it, "chromium")


async def test_no_sandbox_is_the_input_method():
    """sway has the protocols of one, for programs of the desktop."""
    kinds = (
        "zwp_input_method_manager_v2",
        "zwp_virtual_keyboard_manager_v1",
        "zwlr_virtual_pointer_manager_v1",
    )
    async with stand() as it, pinyin(it.comp):
        with Keyboard(it.comp.display) as person:
            assert set(kinds) <= set(person.client.globals)

        def crime(client):
            assert "zwp_text_input_manager_v3" in client.globals
            assert not set(kinds) & set(client.globals)
            for kind in kinds:
                with pytest.raises(KeyError):
                    client.bind(kind)

        await it.client(crime)
