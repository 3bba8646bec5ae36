"""A question on GNOME Shell, from the rule to the answer, as its user meets it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.cli.notifications.notification import DesktopNotification
from broker.core import limits
from broker.helpers.prompt.paint import _DENY
from tests.kit.eventually import eventually
from tests.kit.prompting import read_yes_text
from tests.kit.wayland.at_desktop import (
    GREEN,
    ORANGE,
    at_desktop,
    pending,
    records,
    running,
)

pytestmark = pytest.mark.long
RULES = """\
vitrail.Display + work @adminvm ask
vitrail.Display + web @adminvm allow
"""


def at_gnome_shell(folder):
    return at_desktop("gnome", folder, records("foot"), RULES)


async def test_a_covered_question_is_brought_back_by_its_notification(tmp_path):
    """The notification shows it and answers nothing; the word in the dialog answers."""
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    async with at_gnome_shell(out) as (screen, w), running(w, "web"):
        # Its name is in the frame: the shell draws no title bar.
        await eventually(partial(screen.shows, ORANGE, 640, 125))
        await screen.picture("gnome-name")
        async with running(w, "work"):
            await eventually(partial(screen.shows, GREEN, 5, 100))
            (asked,) = await eventually(partial(pending, w))
            before = await screen.picture("gnome-question")
            screen.click(900, 500)  # into the other window, which covers it
            await eventually(partial(has_banner, screen))
            await screen.picture("gnome-question-covered")
            screen.press("a", "l", "l", "o", "w")  # goes to the other window
            await trio.sleep(limits.PROMPT_WORD_SECONDS + 0.3)
            assert [one.id for one in await pending(w)] == [asked.id]
            screen.click(640, 165)  # "Show the question"
            await eventually(partial(screen.shows, before.getpixel((5, 200)), 5, 200))

            # It takes answers once it has been in front, untouched, for a second.
            await eventually(partial(screen.counted, _DENY))
            screen.press(*await read_yes_text(screen.picture))

            async def answered():
                return not await pending(w)

            await eventually(answered)
            await screen.picture("gnome-question-answered")

            async def no_banner():
                return not await has_banner(screen)

            await eventually(no_banner)  # it goes with its question
            done = await w.wait_event("question.answered", question=asked.id)
            assert (done["answer"], done["answered_by"]) == ("allow", "person")


async def test_a_failure_does_not_hide_that_a_question_waits(tmp_path):
    """The shell shows one notification at a time, and a critical one until it is closed."""
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    async with at_gnome_shell(out) as (screen, w), running(w, "web"):
        await eventually(partial(screen.counted, ORANGE))
        note = DesktopNotification({**os.environ, **w.environ})
        await note.show("Cannot stop talk", "it does not answer", stays=True)
        async with running(w, "work"):
            await eventually(partial(screen.shows, GREEN, 5, 100))
            await eventually(partial(pending, w))
            await screen.picture("gnome-failure-and-question")
            screen.click(900, 500)  # into the other window, which covers it
            await eventually(partial(has_banner, screen))
            await screen.picture("gnome-failure-and-covered-question")


async def has_banner(screen):
    """Whether the notification's button is in its place, in a grey of the shell's."""
    picture = await screen.picture()
    row = {picture.getpixel((x, 172)) for x in (400, 450, 860)}
    return all(60 < n < 110 and max(one) - min(one) < 8 for one in row for n in one)


RUSSIAN = "[org/gnome/desktop/input-sources]\nsources=[('xkb', 'ru')]\n"


async def test_the_word_is_typed_in_a_cyrillic_layout(tmp_path):
    """The keys count by their places."""
    out = Path(os.environ.get("VITRAIL_OUT") or tmp_path)
    made = at_desktop("gnome", out, records("foot"), RULES, RUSSIAN)
    async with made as (screen, w), running(w, "web"):
        await eventually(partial(screen.counted, ORANGE))
        screen.press("a")
        await screen.picture("gnome-cyrillic")
        async with running(w, "work"):
            await eventually(partial(screen.counted, GREEN))
            (asked,) = await eventually(partial(pending, w))
            await eventually(partial(screen.counted, _DENY))
            screen.press(*await read_yes_text(screen.picture))
            done = await w.wait_event("question.answered", question=asked.id)
            assert (done["answer"], done["answered_by"]) == ("allow", "person")


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
            await eventually(partial(screen.counted, ORANGE))


async def has_entry(screen, wm_class):
    """Whether the shell shows a window with name and icon of the dialog's entry."""
    entries = {one["app-id"] for one in await known(screen, wm_class)}
    return entries == {"io.vitrail.Prompt.desktop"}


async def known(screen, wm_class):
    return [one for one in await screen.windows() if one.get("wm-class") == wm_class]
