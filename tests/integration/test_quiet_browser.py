"""The first start of a browser in an image: its page, and no other.

A real Firefox is started twice with an empty profile, once with the policies that
broker/data/image/customize.sh writes into images, and is asked by Marionette, its own
remote protocol, which pages are open.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.marionette import Marionette, marionette
from tests.kit.needs import needs

CUSTOMIZE = Path(__file__).parents[2] / "broker/data/image/customize.sh"
POLICIES = "/etc/firefox/policies/policies.json"
PREFERENCES = """\
user_pref("marionette.port", 0);
user_pref("remote.prefs.recommended", false);
"""
"""Any port, and none of the preferences that would silence it for a test."""

pytestmark = [needs("firefox-esr", "firefox-esr"), needs("bwrap", "bubblewrap")]


def without_other_policies(policies: Path | None) -> list[str]:
    """Words for bwrap: an /etc with these policies of Firefox, or with none."""
    words = ["--tmpfs", "/etc"]
    for entry in Path("/etc").iterdir():
        if entry.is_symlink():
            words += ["--symlink", str(entry.readlink()), str(entry)]
        elif entry.name != "firefox" and os.access(entry, os.R_OK):
            words += ["--ro-bind", str(entry), str(entry)]
    if policies is not None:
        words += ["--ro-bind", str(policies), POLICIES]
    return words


@asynccontextmanager
async def started(home: Path, policies: Path | None) -> AsyncIterator[Marionette]:
    """Firefox with an empty profile."""
    profile = home / "profile"
    profile.mkdir(parents=True)
    (profile / "user.js").write_text(PREFERENCES)
    box = ["bwrap", "--die-with-parent", "--unshare-pid", "--ro-bind", "/", "/"]
    box += ["--dev", "/dev", "--proc", "/proc", "--bind", str(home), str(home)]
    box += without_other_policies(policies)
    program = ["firefox-esr", "--headless", "--marionette", "--profile", str(profile)]
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    child = spawn([*box, *program], env=environ, stdout=DEVNULL, stderr=DEVNULL)
    try:
        async with marionette(profile) as browser:
            yield browser
    finally:
        await child.stop()


async def pages(browser: Marionette) -> set[str]:
    """Return the addresses of all tabs."""
    found = set()
    for handle in await browser.call("WebDriver:GetWindowHandles"):
        await browser.call("WebDriver:SwitchToWindow", handle=handle)
        found.add((await browser.call("WebDriver:GetCurrentURL"))["value"])
    return found


async def test_a_browser_of_an_image_opens_its_own_page_only(tmp_path):
    policies = tmp_path / "policies.json"
    written = CUSTOMIZE.read_text().partition("<<'POLICIES'\n")[2]
    policies.write_text(written.partition("\nPOLICIES\n")[0])
    async with started(tmp_path / "plain", None) as browser:
        shown = await pages(browser)
        assert "about:welcome" in shown, "without policies it welcomes"
        assert len(shown) > 1, "and opens a page about privacy"
    async with started(tmp_path / "quiet", policies) as browser:
        assert await pages(browser) == {"about:home"}
