"""Links that are clicked in a terminal's and a browser's window, and where they open.

A real broker, workers and compositor, real programs; the guests are processes, so that
no machine is booted (test_opening_programs_vm.py boots some).
"""

from __future__ import annotations

import json
import shutil
from contextlib import asynccontextmanager

import pytest

from tests.kit.clipboard.person import Person
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.wayland.browsing import (
    FIREFOX_PREFERENCES,
    clicked,
    page,
    served,
)
from tests.kit.wayland.compositor import pixels, wait_window
from tests.kit.wayland.resizing import kept
from tests.kit.world import world

pytestmark = [pytest.mark.slow, requires("waypipe")]
RULES = """\
vitrail.OpenURL * work @default allow target=personal host=example.org,localhost
"""
_CONTROL, _SHIFT, _O, _S = 29, 42, 24, 31


@asynccontextmanager
async def sandboxes():
    async with (
        world(image=False, rules=RULES) as w,
        plain(w, "work", "personal") as guests,
    ):
        yield w, guests["work"], guests["personal"]


async def opened(w, title):
    """The window of the address's program; by the rule, and in the log."""
    ended = await w.wait_event("transfer.end", deadline=120, sandbox="work")
    assert (ended["target"], ended["outcome"]) == ("personal", "done")
    decision = w.events("decision", service="vitrail.OpenURL", verdict="allow")[-1]
    assert decision["rule"].endswith("30-mine.policy:1")
    await wait_window(w.comp, title=f"[personal] {title}", deadline=120)


async def test_a_link_of_a_terminal_opens_in_another_sandbox():
    async with sandboxes() as (w, _work, personal):
        personal.opens("x-scheme-handler/https", "foot -T %u sleep 1000")
        show = "printf 'see https://example.org/in/a/terminal today'; sleep 1000"
        # The key for it differs between versions of foot.
        key = "key-bindings.show-urls-launch=Control+Shift+o"
        await w.run("work", "foot", "-T", "work", "-o", key, "sh", "-c", show)
        await wait_window(w.comp, title="[work] work")
        with Person(w) as person:
            await person.awake()
            await person.focus("work")

            async def begun():
                # The mode in which links have labels; the only one has the label s.
                await person.press(_O, _CONTROL, _SHIFT)
                await person.press(_S)
                return w.events("transfer.begin", sandbox="work")

            await eventually(begun)
        await opened(w, "https://example.org/in/a/terminal")


# The recipe of docs/opening.md.
POLICY = {
    "BrowserSwitcherEnabled": True,
    "AlternativeBrowserPath": "xdg-open",
    "AlternativeBrowserParameters": ["${url}"],
    "BrowserSwitcherUrlList": ["localhost"],
}


def chromium(guest, address):
    """The words that start Chromium with a page, under its administrator's policy.

    Such a policy is read from /etc only, so Chromium gets a separate /etc/chromium.
    """
    policies = guest.home / "managed"
    policies.mkdir()
    (policies / "vitrail.json").write_text(json.dumps(POLICY))
    (guest.home / "page.html").write_text(page(address))
    bwrap = ("bwrap", "--dev-bind", "/", "/", "--tmpfs", "/etc/chromium")
    return (
        *(*bwrap, "--ro-bind", str(policies), "/etc/chromium/policies/managed"),
        *("chromium", "--no-sandbox", "--ozone-platform=wayland", "--disable-gpu"),
        *("--no-first-run", f"--user-data-dir={guest.home}/profile"),
        f"file://{guest.home}/page.html",
    )


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_link_clicked_in_chromium_opens_in_the_firefox_of_another_sandbox():
    """Chromium hands over the hosts that its administrator lists."""
    for name in ("chromium", "firefox-esr", "bwrap"):
        if shutil.which(name) is None:
            pytest.skip(f"not installed: {name}")
    with served("it has arrived") as address:
        async with sandboxes() as (w, work, personal):
            await _browsed(w, work, personal, address)


async def _browsed(w, work, personal, address):
    await w.run("work", *chromium(work, address))
    profile = personal.home / "profile"
    profile.mkdir()
    (profile / "user.js").write_text(FIREFOX_PREFERENCES)
    words = f"firefox-esr --no-remote --profile {profile} %u"
    personal.opens("x-scheme-handler/http", words)
    await wait_window(w.comp, title="[work] a page", deadline=120)

    async def begun():
        return w.events("transfer.begin", sandbox="work")

    await clicked(w.comp, begun)
    await opened(w, "it has arrived")
    kept("opening-chromium", await pixels(w.comp))
