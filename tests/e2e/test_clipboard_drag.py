"""Drags between sandboxes by the rules of a real broker: GTK, sway, a pointer.

Each window's left half is dragged from, its right half is dropped on.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager

import pytest
import trio

from broker.ipc.control.api import Nothing, QuestionAnswerRequest
from broker.ipc.control.methods import ANSWER, PENDING
from shims.bundle import x11_bridge
from tests.e2e.test_clipboard import LABELS, SECRET, status
from tests.kit.clipboard.person import Person
from tests.kit.container import DIRECT, container
from tests.kit.eventually import eventually
from tests.kit.wayland import gtk_drag
from tests.kit.wayland.compositor import wait_window
from tests.kit.wayland.input import Pointer
from tests.kit.world import world

SCREEN = (1280, 800)
DRAG = '[clipboard]\ndrag = "rules"\n'
STEP = 20


class Half:
    """A sandbox's window, and its reports of drags."""

    def __init__(self, w, name, place):
        self.w, self.name, self.place = w, name, place

    def lines(self):
        return self.place.read_text().splitlines() if self.place.exists() else []

    async def at(self, part):
        """A point of the screen: so many parts of four from the left."""
        title = f"[{self.name}] {self.name}"
        rect = (await wait_window(self.w.comp, title=title))[0]["rect"]
        return rect["x"] + rect["width"] * part // 4, rect["y"] + rect["height"] // 2

    async def got(self, line):
        async def there():
            return line in self.lines()

        await eventually(there, deadline=60)


@asynccontextmanager
async def halves(rules, names=("work", "personal"), record=DRAG, kind="text", gtk="3"):
    """A broker with these rules, a GTK window in a sandbox of each name, a pointer.

    ``gtk`` is its version, with ``-x11`` for an X11 program; two words: the first is
    the first sandbox's, the second all others'.
    """
    async with world(start=False, image=False) as w:
        lines = "".join(f"vitrail.ClipboardPaste * {one}\n" for one in rules)
        w.write_rules(lines)
        await w.start()
        with Person(w) as person, Pointer(w.comp.display, SCREEN) as mouse:
            await person.awake()
            async with _open(w, names, record, kind, gtk) as made:
                yield w, mouse, made


@asynccontextmanager
async def _open(w, names, record, kind, gtk):
    if not names:
        yield {}
        return
    name = names[0]
    directory = w.base / f"sockets-{name}"
    directory.mkdir(mode=0o700)
    shutil.copy(gtk_drag.__file__, directory / "gtk_drag.py")
    content = f"file:///home/{name}/secret" if kind == "file" else SECRET
    number, _, x11 = gtk.partition(" ")[0].partition("-")
    program = f"python3 /tmp/broker/gtk_drag.py {number} {name} /tmp/broker/told {kind}"
    if x11:
        (directory / "vitrail-x11").write_bytes(x11_bridge())
        program = f"env GDK_BACKEND=x11 python3 /tmp/broker/vitrail-x11 -- {program}"
    label = f'[label]\ncolour = "{LABELS[name]}"\n'
    async with (
        container(
            w,
            name,
            title=f"[{name}] {name}",
            inside=DIRECT,
            program=f'{program} "{content}"',
            record=f"{record}\n{label}",
        ),
        _open(w, names[1:], record, kind, gtk.rpartition(" ")[2]) as rest,
    ):
        half = Half(w, name, directory / "told")
        await half.got("ready")
        yield {name: half, **rest}


def _way(start, end):
    (x, y), (to_x, to_y) = start, end
    steps = max(abs(to_x - x), abs(to_y - y)) // STEP + 1
    for n in range(1, steps + 1):
        yield x + (to_x - x) * n // steps, y + (to_y - y) * n // steps


async def drag(mouse, source, target):
    """Press on one window, move over the other, and let go there.

    A person rests before they let go: a pointer that is faster than two
    processes' answers drops on a window that accepts nothing yet.
    """
    start, end = await source.at(1), await target.at(3)

    def pull():
        mouse.move(*start)
        mouse.button(True)
        for spot in _way(start, end):
            mouse.move(*spot)

    await trio.to_thread.run_sync(pull)
    for nudge in (1, 0, 1, 0):
        await trio.sleep(0.25)
        await trio.to_thread.run_sync(mouse.move, end[0] + nudge, end[1])
    await trio.to_thread.run_sync(mouse.button, False)


async def drag_until(mouse, source, target, seen):
    """Drag again until it shows: how fast a toolkit begins one is not specified."""

    async def once():
        await drag(mouse, source, target)
        with trio.move_on_after(10):
            return await eventually(seen, deadline=20)

    return await eventually(once, deadline=90)


def ended(w, **wanted):
    """An event by which a drag's end is known."""

    async def look():
        found = w.events("clipboard.ended")
        return next(
            (e for e in found if all(e.get(k) == v for k, v in wanted.items())), None
        )

    return look


def pasted(w):
    async def look():
        return next(iter(w.events("clipboard.pasted")), None)

    return look


@pytest.mark.long
@pytest.mark.parametrize("gtk", ["3", "4", "3-x11", "3-x11 3", "3 3-x11"])
async def test_an_allowed_drag_is_dropped_and_a_denied_one_is_not(gtk):
    rules = ["work personal allow", "work evil deny"]
    async with halves(rules, ("work", "personal", "evil"), gtk=gtk) as (w, mouse, half):
        event = await drag_until(mouse, half["work"], half["personal"], pasted(w))
        assert (event["sandbox"], event["target"]) == ("work", "personal")
        assert (event["selection"], event["bytes"]) == ("drag", len(SECRET))
        assert event["rule"].endswith("30-mine.policy:1")
        await half["personal"].got(f"dropped {SECRET}")
        refused = ended(w, target="evil", outcome="refused")
        event = await drag_until(mouse, half["work"], half["evil"], refused)
        assert event["sandbox"] == "work"
        # Back into itself, as ever, and no rule is asked.

        async def at_home():
            return f"dropped {SECRET}" in half["work"].lines()

        await drag_until(mouse, half["work"], half["work"], at_home)
        told = [e for e in w.events() if e["kind"].startswith("clipboard")]
        assert told
        assert not [e for e in told if e.get("target") == "work"]
        assert half["evil"].lines() == ["ready"], "not even that there was a drag"
        assert (await status(w)).source == "", "nothing is held"
        assert SECRET not in str(w.events())


@pytest.mark.long
async def test_asked_about_a_drag_the_window_learns_of_it_after_the_yes():
    async with halves(["work personal ask"]) as (w, mouse, half):

        async def pending():
            async with w.client() as client:
                return (await client.call(PENDING, Nothing())).questions

        (question,) = await drag_until(mouse, half["work"], half["personal"], pending)
        assert (question.sandbox, question.targets) == ("work", ["personal"])
        assert half["personal"].lines() == ["ready"]
        async with w.client() as client:
            await client.call(
                ANSWER,
                QuestionAnswerRequest(id=question.id, allow=True, target="personal"),
            )
        await half["personal"].got(f"dropped {SECRET}")


@pytest.mark.long
async def test_a_dragged_file_is_asked_of_its_sandbox_and_its_name_is_not_told():
    """The sandbox's own program sends it, by the rules for files."""
    async with halves(["@anyvm @anyvm allow"], kind="file") as (w, mouse, half):

        async def asked():
            found = w.events("program.started", name="vitrail-files")
            return next(iter(found), None)

        event = await drag_until(mouse, half["work"], half["personal"], asked)
        assert event["sandbox"] == "work"
        assert half["personal"].lines() == ["ready"]
        assert w.events("clipboard.pasted") == []
        assert "/home/work/secret" not in str(w.events())


@pytest.mark.long
async def test_where_no_record_says_so_a_drag_stays_inside_whatever_the_rules():
    allow = ["@anyvm @anyvm allow"]
    async with halves(allow, record="") as (w, mouse, half):
        seen = ended(w, target="personal", outcome="refused")
        event = await drag_until(mouse, half["work"], half["personal"], seen)
        assert "cannot be dragged to another sandbox" in event["reason"]
        assert half["personal"].lines() == ["ready"]
        assert w.events("clipboard.pasted") == []
