"""A question on GNOME Shell, from the rule to the answer, as its user meets it."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from PIL import Image

from broker.core import limits
from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import PENDING
from tests.kit.eventually import eventually
from tests.kit.prompting import KEYS
from tests.kit.wayland.mutter_person import GnomeKeyboard, GnomePointer, gnome_shell
from tests.kit.world import world

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not all(map(shutil.which, ("gnome-shell", "gjs", "dbus-daemon", "bwrap"))),
        reason="gnome-shell, gjs, dbus or bubblewrap is missing",
    ),
]
RECORD = """\
class = "persistent"
display = "allow"
[label]
colour = "{colour}"
[launch]
kind = "bwrap"
command = ["foot"]
"""
RECORDS = {
    "work": RECORD.format(colour="#009e73"),
    "web": RECORD.format(colour="#e69f00"),
}
RULES = """\
vitrail.Display + work @adminvm ask
vitrail.Display + web @adminvm allow
"""
GREEN, ORANGE = (0x00, 0x9E, 0x73), (0xE6, 0x9F, 0x00)
SCREEN = (1280, 800)


class Screen:
    """GNOME Shell, its user's keyboard and pointer, and a broker there."""

    def __init__(self, there, keys, folder):
        self.there, self.keys = there, keys
        self.folder = folder
        self.pointer = GnomePointer(keys)
        # From the corner without a hot spot of the shell's.
        self.pointer._step(*SCREEN)
        self.pointer._at = tuple(n - 1 for n in SCREEN)

    async def picture(self, name="now") -> Image.Image:
        file = self.folder / f"{name}.png"
        await trio.to_thread.run_sync(self.there.screenshot, file)
        return Image.open(file).convert("RGB")

    async def colour_at(self, *place):
        return (await self.picture()).getpixel(place)

    def click(self, *place):
        self.pointer.move(*place)
        self.pointer.button(True)
        self.pointer.button(False)

    def press(self, *names):
        for name in names:
            self.keys.press(KEYS[name])


@asynccontextmanager
async def at_gnome_shell(folder):
    async with gnome_shell() as there:
        with await GnomeKeyboard.of(there.bus) as keys:
            keys.press(KEYS["BackSpace"])
            screen = Screen(there, keys, folder)
            # The overview, which the shell begins with, takes Escape once it is there.
            await eventually(partial(left_overview, screen))

            @asynccontextmanager
            async def compositor():
                yield there

            data = Path(there.environment["XDG_RUNTIME_DIR"]) / ".local/share"
            extra = {
                "DBUS_SESSION_BUS_ADDRESS": there.bus,
                "XDG_DATA_HOME": str(data),
            }
            async with world(
                RECORDS, start=False, image=False, extra=extra, screen=compositor
            ) as w:
                rules = w.paths.config[0] / "policy.d"
                rules.mkdir()
                (rules / "10-test.policy").write_text(RULES)
                await w.start()
                yield screen, w


async def left_overview(screen):
    """Whether the shell shows its desktop, whose picture has a colour of its own."""
    screen.press("Escape")
    return await screen.colour_at(640, 700) == await screen.colour_at(20, 780)


@asynccontextmanager
async def running(w, *words):
    """A brokerctl that runs a sandbox."""
    child = spawn(
        our_program("broker.cli.app", "run", *words),
        env=w.environ,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        yield child
    finally:
        await child.stop()


async def pending(w):
    async with w.client() as client:
        return (await client.call(PENDING, Nothing())).questions


async def shows(screen, colour, *place):
    return await screen.colour_at(*place) == colour


async def test_a_covered_question_is_brought_back_by_its_notification(tmp_path):
    """The notification shows it and answers nothing; the word in the dialog answers."""
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    async with at_gnome_shell(out) as (screen, w), running(w, "web"):
        # Its name is in the frame: the shell draws no title bar.
        await eventually(partial(shows, screen, ORANGE, 640, 125))
        await screen.picture("gnome-name")
        async with running(w, "work"):
            await eventually(partial(shows, screen, GREEN, 5, 100))
            (asked,) = await eventually(partial(pending, w))
            before = await screen.picture("gnome-question")
            screen.click(900, 500)  # into the other window, which covers it
            await eventually(partial(has_banner, screen))
            await screen.picture("gnome-question-covered")
            screen.press("a", "l", "l", "o", "w")  # goes to the other window
            await trio.sleep(limits.PROMPT_WORD_SECONDS + 0.3)
            assert [one.id for one in await pending(w)] == [asked.id]
            screen.click(640, 165)  # "Show the question"
            await eventually(partial(shows, screen, before.getpixel((5, 200)), 5, 200))

            async def allowed():
                screen.press(*["BackSpace"] * 8, *"allow")
                await trio.sleep(limits.PROMPT_GUARD_SECONDS + 0.5)
                return not await pending(w)

            await eventually(allowed)
            await screen.picture("gnome-question-answered")
            assert not await has_banner(screen), "it goes with its question"
            done = await w.wait_event("question.answered", question=asked.id)
            assert (done["answer"], done["answered_by"]) == ("allow", "person")


async def has_banner(screen):
    """Whether the notification's button is in its place, in a grey of the shell's."""
    picture = await screen.picture()
    row = {picture.getpixel((x, 172)) for x in (400, 450, 860)}
    return all(60 < n < 110 and max(one) - min(one) < 8 for one in row for n in one)


TITLE = "Vitrail asks about web"


async def test_a_window_that_plays_the_question_is_the_sandboxs_for_the_shell(tmp_path):
    """Its id, its title and its class are not ours; the shell's entry of ours is not its."""
    imitates = ("foot", "--app-id", "io.vitrail.Prompt", "--title", TITLE)
    async with at_gnome_shell(tmp_path) as (screen, w), running(w, "work"):
        (ours,) = await eventually(partial(known, screen, "io.vitrail.Prompt"))
        assert ours["title"] == "Vitrail asks about work"
        async with running(w, "web", "--", *imitates, "sleep", "1000"):
            (theirs,) = await eventually(
                partial(known, screen, "vitrail.web.io.vitrail.Prompt")
            )
            assert theirs["title"] == f"[web] {TITLE}"
            # The broker has written the entry a moment ago.
            await eventually(partial(has_entry, screen, ours["wm-class"]))
            assert not await has_entry(screen, theirs["wm-class"])
            assert len(await known(screen, "io.vitrail.Prompt")) == 1
            # In its frame's name strip, which its program cannot draw over.
            await eventually(partial(has_colour, screen, ORANGE))


async def has_entry(screen, wm_class):
    """Whether the shell shows a window with name and icon of the dialog's entry."""
    entries = {one["app-id"] for one in await known(screen, wm_class)}
    return entries == {"io.vitrail.Prompt.desktop"}


async def known(screen, wm_class):
    windows = await trio.to_thread.run_sync(screen.there.windows)
    return [one for one in windows if one.get("wm-class") == wm_class]


async def has_colour(screen, colour):
    return colour in {c for _, c in (await screen.picture()).getcolors(1 << 24)}
