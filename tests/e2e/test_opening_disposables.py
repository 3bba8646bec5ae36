"""The shipped household's rules that lead to disposables, to their end, in real micro VMs.

``tests/integration/test_opening_household.py`` sees the decision of each line; here a
disposable is started, the person answers, and the requested page or file is seen.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from broker.ipc.control.api import Nothing
from broker.ipc.control.methods import PENDING
from tests.integration.test_opening_household import RULES, answered, decided, line
from tests.kit.clipboard.person import Person
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels, wait_frames, wait_window
from tests.kit.wayland.resizing import kept
from tests.kit.world import record, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

# A browser that shows its address as the title, and saves a page at the press of a key.
BROWSER = """
import os, sys
save = "read key; echo a page > /tmp/page; vitrail-copy /tmp/page work; sleep 1000"
os.execvp("foot", ["foot", "-T", "at " + sys.argv[1], "sh", "-c", save])
"""
SHOW = """
import os, sys
text = open(sys.argv[1]).read().strip()
os.execvp("foot", ["foot", "-T", "shows " + text, "sleep", "1000"])
"""
_ENTER = 28
ORANGE, RED = (0xE6, 0x9F, 0x00), (0xD5, 0x5E, 0x00)


def machine(sandbox_class, colour, command="", top=""):
    text = record(sandbox_class, colour=colour, top=top, launch="boot_deadline = 300")
    if command:
        words = f"command = [\"python3\", \"-c\", '''{command}''']"
        text = text.replace('command = ["foot"]', words)
    return text


@asynccontextmanager
async def household():
    records = {
        "work": machine("persistent", "blue", top='tags = ["trusted"]'),
        "web": machine("disposable", "orange", BROWSER),
        "viewer": machine("disposable", "red", SHOW),
    }
    async with world(records, start=False) as w:
        folder = w.paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        shutil.copy(RULES, folder)
        await w.start()
        yield w


async def asked(w, *words):
    """Run a command in work and allow its requests; returns the targets."""
    done = []

    async def run():
        done.extend(await w.output("work", *words))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        targets = await allowed(w)
    code, out = done
    assert code == 0, out
    return targets


async def allowed(w):
    """Allow the next question, whose program may be long in coming."""
    await eventually(partial(questions, w), deadline=300)
    return await answered(w, allow=True)


async def questions(w):
    async with w.client() as client:
        return (await client.call(PENDING, Nothing())).questions


async def shown(w, title, colour):
    """Wait for a disposable's framed window; returns it and the sandbox."""
    (window,) = await wait_window(w.comp, title=title, deadline=300)
    await wait_frames(w.comp, {window["name"]: {colour}})
    sandbox = window["name"].partition("] ")[0].lstrip("[")
    assert sandbox in {s.name for s in (await w.status()).sandboxes}
    return window, sandbox


async def closed(w, window, sandbox):
    """Close its window; the machine is gone with its program."""
    await w.comp.command(f"[con_id={window['id']}] kill")

    async def gone():
        return sandbox not in {s.name for s in (await w.status()).sandboxes}

    await eventually(gone, deadline=120)


async def test_the_lines_that_lead_to_disposables_do_as_their_comments_say():
    async with household() as w:
        await w.output("work", "true")
        await a_link_opens_in_a_browser_that_is_thrown_away(w)
        await another_scheme_by_hand_and_a_page_that_is_saved(w)
        await a_file_is_looked_at(w)


async def a_link_opens_in_a_browser_that_is_thrown_away(w):
    code, out = await w.output("work", "xdg-open", "https://example.org/")
    assert code == 0, out
    window, sandbox = await shown(w, "at https://example.org/", ORANGE)
    assert sandbox.startswith("web-")
    rule = line("vitrail.OpenURL * @tag:trusted @default")
    seen = decided(w, service="vitrail.OpenURL", sandbox="work")
    assert seen == ("allow", "@dispvm:web", rule)
    await closed(w, window, sandbox)


async def another_scheme_by_hand_and_a_page_that_is_saved(w):
    to_web = ("vitrail-open", "--to", "@dispvm:web", "http://example.org/")
    assert await asked(w, *to_web) == ["@dispvm:web"]
    window, sandbox = await shown(w, "at http://example.org/", ORANGE)
    rule = line("vitrail.OpenURL * @tag:trusted @dispvm:web")
    seen = decided(w, service="vitrail.OpenURL", sandbox="work")
    assert seen[::2] == ("allow", rule)

    # Its saved file goes out by a question, as the person has just acted in its window.
    with Person(w) as person:
        await person.awake()
        await person.focus(sandbox, "at http://example.org/")

        async def pressed():
            # An emulated terminal hears no key before its shell reads.
            await person.press(_ENTER)
            with trio.move_on_after(5):
                return await eventually(partial(questions, w), deadline=10)

        await eventually(pressed, deadline=300)
        assert "work" in await answered(w, allow=True)
    ended = await w.wait_event("transfer.end", deadline=120, sandbox=sandbox)
    assert (ended["target"], ended["outcome"]) == ("work", "done")
    code, out = await w.output("work", "cat", f"/home/user/Incoming/{sandbox}/page")
    assert (code, out) == (0, b"a page\n")
    rule = line("vitrail.FileCopy * @type:disposable")
    seen = decided(w, service="vitrail.FileCopy", sandbox=sandbox)
    assert seen[::2] == ("allow", rule)
    await closed(w, window, sandbox)


async def a_file_is_looked_at(w):
    await w.output("work", "sh", "-c", "echo some notes > /tmp/notes.txt")
    assert await asked(w, "vitrail-open", "/tmp/notes.txt") == ["@dispvm:viewer"]
    window, sandbox = await shown(w, "shows some notes", RED)
    assert sandbox.startswith("viewer-")
    kept("household-viewer", await pixels(w.comp))
    rule = line("vitrail.OpenFile * @anyvm @default")
    seen = decided(w, service="vitrail.OpenFile", sandbox="work")
    assert seen[::2] == ("allow", rule)
    await closed(w, window, sandbox)
