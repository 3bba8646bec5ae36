"""Files dragged from a GTK program of the desktop and dropped on a sandbox's window.

Real: sway and a pointer, the document portal, the broker, its workers, the guest's agent
and programs; the guest is a process.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.ipc.control.api import Nothing, QuestionAnswerRequest
from broker.ipc.control.methods import ANSWER, PENDING
from tests.e2e.test_clipboard import told
from tests.e2e.test_clipboard_drag import SCREEN, drag, ended
from tests.kit.clipboard.person import Person
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.sound.servers import started
from tests.kit.wayland import gtk_drag
from tests.kit.wayland.compositor import wait_window
from tests.kit.wayland.input import Pointer
from tests.kit.world import world

LIBEXEC = Path(os.environ.get("VITRAIL_TEST_LIBEXEC", "/usr/libexec"))
pytestmark = [pytest.mark.long, requires("waypipe")]
needs_portal = pytest.mark.skipif(
    not (LIBEXEC / "xdg-document-portal").exists(),
    reason="xdg-desktop-portal is not installed, whose document portal this needs",
)
RULE = "vitrail.FileCopy * @adminvm work {}\n"


class Window:
    """A window, as the pointer finds it."""

    def __init__(self, w, title):
        self.w, self.title = w, title

    async def at(self, part):
        """A point of the screen: so many parts of four from the left."""
        rect = (await wait_window(self.w.comp, title=self.title, deadline=60))[0][
            "rect"
        ]
        return rect["x"] + rect["width"] * part // 4, rect["y"] + rect["height"] // 2


@asynccontextmanager
async def document_portal(w, bus):
    """The desktop's own, with the store of permissions that it asks."""
    runtime = w.base / "portal"
    runtime.mkdir(mode=0o700)
    env = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": bus}
    env |= {"XDG_RUNTIME_DIR": str(runtime), "HOME": str(w.base)}
    env["XDG_DATA_HOME"] = str(runtime / "data")
    async with (
        started(str(LIBEXEC / "xdg-permission-store"), env=env),
        started(str(LIBEXEC / "xdg-document-portal"), env=env),
    ):
        await eventually((runtime / "doc/by-app").exists, deadline=60)
        yield


@asynccontextmanager
async def scene(rule, gtk, *, portal=True):
    """A source of two files on the desktop, a sandbox's window."""
    async with (
        told() as (bus, shown),
        world(start=False, image=False, extra={"DBUS_SESSION_BUS_ADDRESS": bus}) as w,
    ):
        w.write_rules(rule)
        await w.start()
        mine = w.base / "mine"
        mine.mkdir()
        (mine / "a b.txt").write_text("one")
        (mine / "two.txt").write_text("two")
        uris = " ".join((mine / n).as_uri() for n in ("a b.txt", "two.txt"))
        env = {**os.environ, **w.comp.environment, "DBUS_SESSION_BUS_ADDRESS": bus}
        argv = ("/usr/bin/python3", gtk_drag.__file__, gtk, "files")
        async with plain(w, "work") as guests:
            with Person(w) as person, Pointer(w.comp.display, SCREEN) as mouse:
                await person.awake()
                async with (
                    _served(w, bus, portal=portal),
                    started(*argv, str(w.base / "told"), "file", uris, env=env),
                ):
                    source = Window(w, "files")
                    await source.at(1)
                    await w.run("work", "foot", "-T", "work", "sleep", "1000")
                    target = Window(w, "[work] work")
                    await target.at(1)
                    yield w, mouse, source, target, guests["work"], shown


@asynccontextmanager
async def _served(w, bus, *, portal):
    if portal:
        async with document_portal(w, bus):
            yield
    else:
        yield


async def drop_until(mouse, source, target, seen):
    """Drag again until it shows: how fast a toolkit begins one is not specified."""

    async def once():
        await drag(mouse, source, target)
        with trio.move_on_after(10):
            return await eventually(seen, deadline=20)

    return await eventually(once, deadline=90)


@needs_portal
@pytest.mark.parametrize("gtk", ["3", "4"])
async def test_dropped_files_are_asked_about_and_copied(gtk):
    async with scene(RULE.format("ask"), gtk) as (
        w,
        mouse,
        source,
        target,
        work,
        shown,
    ):

        async def pending():
            async with w.client() as client:
                return (await client.call(PENDING, Nothing())).questions

        (question,) = await drop_until(mouse, source, target, pending)
        assert (question.sandbox, question.service) == ("work", "vitrail.FileCopy")
        assert "that you dragged" in question.words
        assert len(question.details) == 3
        for shown_line, value in zip(
            question.details, ("a b.txt", "two.txt", "6 bytes"), strict=True
        ):
            assert value in shown_line
        assert not (work.home / "Incoming").exists()
        if picture := os.environ.get("VITRAIL_TEST_PICTURE"):
            await w.comp.screenshot(Path(f"{picture}-{gtk}.png"))
        async with w.client() as client:
            await client.call(
                ANSWER,
                QuestionAnswerRequest(id=question.id, allow=True, target="work"),
            )
        done = await w.wait_event("transfer.end", outcome="done")
        assert (done["target"], done["files"], done["bytes"]) == ("work", 2, 6)
        kept = work.home / "Incoming/desktop"
        assert sorted(p.name for p in kept.iterdir()) == ["a b.txt", "two.txt"]
        assert (kept / "a b.txt").read_text() == "one"

        async def reported():
            return [n[3] for n in shown.values() if "Files copied" in n[3]]

        assert await eventually(reported) == ["Files copied: desktop → work"]
        assert w.events("clipboard.pasted") == []
        (begun,) = w.events("transfer.begin")
        assert begun["object"] == "a b.txt, two.txt", "no path is logged"
        (decision,) = w.events("decision", service="vitrail.FileCopy")
        assert decision["detail"]["source"] == "@adminvm"


@pytest.mark.parametrize("portal", [pytest.param(True, marks=needs_portal), False])
async def test_dropped_files_are_refused_in_words(portal):
    rule = "deny" if portal else "allow"
    async with scene(RULE.format(rule), "4", portal=portal) as (
        w,
        mouse,
        source,
        target,
        work,
        _,
    ):
        seen = ended(w, target="work", outcome="refused")
        event = await drop_until(mouse, source, target, seen)
        words = "no rule for vitrail.FileCopy" if portal else "if xdg-desktop-portal is"
        assert words in event["reason"]
        assert not (work.home / "Incoming").exists()
