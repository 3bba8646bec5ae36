"""Programs of a sandbox print on printers of the desktop, by rule.

CUPS on the desktop, guests that are processes, so that no machine is booted; what is
printed is drawn again and looked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from broker.helpers.process.spawn import DEVNULL, spawn
from broker.helpers.prompt.paint import _DENY, _INERT
from tests.integration.test_sanitize import PDF
from tests.kit.brokerctl import brokerctl
from tests.kit.cups import printers
from tests.kit.eventually import eventually
from tests.kit.guest_notifications import bus_of, notifying
from tests.kit.wayland.compositor import pixels, short_directory

NEEDED = ("waypipe", "mako", "dbus-daemon", "pdftoppm", "lp", "lpadmin", "gio")
PRINTS_HERE = pytest.mark.skipif(
    not all(shutil.which(one, path="/usr/bin:/usr/sbin") for one in NEEDED),
    reason=f"{', '.join(NEEDED)} are needed",
)
pytestmark = PRINTS_HERE
RULES = """\
vitrail.Print * work @adminvm ask printer=Office
vitrail.Print * personal @adminvm allow
vitrail.Print * @anyvm @adminvm deny
"""
# As GTK's print operation through the portal: a dialog, then the document.
PRINTS = """
import sys, gi
gi.require_version("Gtk", "4.0")
from gi.repository import Gtk, GLib
Gtk.init()
loop = GLib.MainLoop()
operation = Gtk.PrintOperation()
operation.set_n_pages(2)
def draw(_, context, number):
    cairo = context.get_cairo_context()
    cairo.rectangle(0, 0, 200, 200 + 100 * number)
    cairo.fill()
def done(_, result):
    print("result", result.value_nick, flush=True)
    # It sends the document afterwards.
    GLib.timeout_add_seconds(60, loop.quit)
operation.connect("draw-page", draw)
operation.connect("done", done)
operation.set_allow_async(True)
operation.run(Gtk.PrintOperationAction.PRINT_DIALOG, None)
loop.run()
"""


@asynccontextmanager
async def printing(rules=RULES):
    """Yield the world, its screen, the guests and the printers Home and Office."""
    with short_directory() as folder:
        async with (
            printers(folder, "Home", "Office") as cups,
            notifying(
                rules,
                "work",
                "personal",
                env={**cups.env, "XDG_CACHE_HOME": str(folder)},
            ) as found,
        ):
            yield (*found, cups)
            # None of it stays.
            assert not list((folder / "vitrail-printing").iterdir())


async def printed(cups, number=1):
    """The jobs, once there are so many."""
    await eventually(lambda: len(cups.jobs()) >= number)
    return cups.jobs()


async def answered(w, answer):
    """Wait for the question, and answer it; returns its text."""

    async def asked():
        told = await brokerctl("pending", "--json", env=w.environ)
        return told.code == 0 and told.objects[0]["questions"]

    (found,) = await eventually(asked)
    told = await brokerctl("answer", str(found["id"]), answer, env=w.environ)
    assert told.code == 0, told
    return found


def dark(content, *words):
    """The number of dark pixels of the first page at 72 dots an inch, and its width."""
    words = ["pdftoppm", "-r", "72", "-gray", *words, "-"]
    shown = subprocess.run(
        words, input=content, stdout=subprocess.PIPE, check=True, timeout=60
    ).stdout
    _, width, _, _ = shown.split(maxsplit=4)[:4]
    return sum(value < 100 for value in shown[15:]), int(width)


async def test_a_rule_prints_pages_as_pixels_on_the_usual_printer():
    async with printing() as (w, screen, guests, cups):
        personal = guests["personal"]
        (personal.home / "a.pdf").write_bytes(PDF)
        code, said = await personal.command("vitrail-print", "a.pdf")
        assert code == 0, said
        (job,) = await printed(cups)
        assert (job.printer, job.title, job.copies) == ("Home", "personal: a.pdf", "1")
        assert job.content.startswith(b"%PDF-1.4")
        assert b"JavaScript" not in job.content
        pixels, width = dark(job.content)
        assert 500 < pixels < 30_000
        assert width == 300
        notice = await screen.one_with("1 page on Home")
        assert notice[1].startswith("personal")
        assert notice[2] == "document, it says: a.pdf"
        begun = await w.only_event("transfer.begin", service="vitrail.Print")
        assert begun["object"] == "a.pdf: 1 page on Home"
        ended = await w.only_event("transfer.end", service="vitrail.Print")
        assert ended["outcome"] == "done"
        # Another form than PDF is not printed, and neither is what poppler cannot read.
        (personal.home / "b.ps").write_bytes(b"%!PS\n")
        (personal.home / "bad.pdf").write_bytes(b"%PDF-1.4\nnothing of it")
        code, said = await personal.command("vitrail-print", "b.ps")
        assert (code, "not a PDF file" in said) == (1, True), said
        code, said = await personal.command("vitrail-print", "bad.pdf")
        assert (code, "pdfinfo failed" in said) == (1, True), said
        assert len(cups.jobs()) == 1


async def _has_buttons(comp):
    """Return whether a dialog is on the screen."""
    colours = (await pixels(comp)).convert("RGB").getcolors(1 << 24)
    return {_DENY, _INERT} & {colour for _, colour in colours}


async def test_question_shows_the_page_and_nothing_else_does():
    """Attack: pages that look like a window of the desktop, opened before an answer."""
    async with printing() as (w, screen, guests, cups):
        work, seen = guests["work"], w.base / "seen.pdf"
        shows(w, f"cp %f {seen}")
        # A question that was denied is not asked again at once.
        for answer, name, count in (("deny", "a.pdf", 0), ("allow", "b.pdf", 1)):
            (work.home / name).write_bytes(PDF)
            async with running_print(work, name) as child:
                await eventually(partial(_has_buttons, screen.comp))
                folder = Path(os.environ.get("VITRAIL_OUT") or w.base)
                await screen.comp.screenshot(folder / f"printing-{name}.png")
                asked = await answered(w, answer)
                assert asked["sandbox"] == "work"
                assert asked["words"] == "to print on Office"
                assert "pages, it says: 1" in asked["details"]
                assert f"document, it says: {name}" in asked["details"]
                assert await child.wait() == (0 if count else 1)
            assert len(cups.jobs()) == count
        (job,) = cups.jobs()
        assert (job.printer, job.title) == ("Office", "work: b.pdf")
        assert not seen.exists(), "a program of the desktop was started with the pages"


async def test_a_gtk_program_prints_through_the_portal():
    async with printing() as (_w, screen, guests, cups):
        personal = guests["personal"]
        async with bus_of(personal):
            env = {**personal.env, **screen.comp.environment}
            env["DBUS_SESSION_BUS_ADDRESS"] = personal.env["DBUS_SESSION_BUS_ADDRESS"]
            env |= {"GDK_DEBUG": "portals", "GTK_USE_PORTAL": "1"}
            words = ["/usr/bin/python3", "-c", PRINTS]
            child = spawn(words, env=env, stdout=DEVNULL, stderr=DEVNULL)
            try:
                (job,) = await printed(cups)
            finally:
                await child.stop()
            assert (job.printer, job.title) == ("Home", "personal: Print")
            first, _ = dark(job.content, "-l", "1")
            second, _ = dark(job.content, "-f", "2")
            assert 1.4 < second / first < 1.6


def shows(w, command):
    """Register a program of the desktop that shows PDF files."""
    folder = w.base / "data/applications"
    folder.mkdir(parents=True, exist_ok=True)  # beside the entry of questions
    (folder / "viewer.desktop").write_text(
        f"[Desktop Entry]\nType=Application\nName=Viewer\nExec={command}\n"
    )
    (folder / "mimeapps.list").write_text(
        "[Default Applications]\napplication/pdf=viewer.desktop\n"
    )


@asynccontextmanager
async def running_print(guest, *words):
    tool = guest.folder / "runtime/bin/vitrail-print"
    child = spawn(
        [str(tool), *words],
        env=guest.env,
        cwd=guest.home,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        yield child
    finally:
        await child.stop()
