"""The first start of a browser in an image: its own page, and no other.

A real Firefox is started twice with an empty profile, once with the policies that
broker/data/image/customize.sh writes into images, and is asked by Marionette, its own
remote protocol, which pages are open.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import eventually
from tests.kit.needs import needs

CUSTOMIZE = Path(__file__).parents[2] / "broker/data/image/customize.sh"
POLICIES = "/etc/firefox/policies/policies.json"
PREFERENCES = """\
user_pref("marionette.port", 0);
user_pref("remote.prefs.recommended", false);
"""
"""Any port, and none of the preferences that would silence it for a test."""

pytestmark = [needs("firefox-esr", "firefox-esr"), needs("bwrap", "bubblewrap")]


class Marionette:
    """The commands that are needed of Firefox's Marionette, version 3.

    Each message is its length in decimal, a colon, and ``[type, number, name or error,
    parameters or result]`` in JSON.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._received = b""

    async def hello(self) -> None:
        """Read what it says first, and begin a session."""
        assert (await self._message())["marionetteProtocol"] == 3
        await self.call("WebDriver:NewSession")

    async def pages(self) -> set[str]:
        """Return the addresses of all tabs."""
        found = set()
        for handle in await self.call("WebDriver:GetWindowHandles"):
            await self.call("WebDriver:SwitchToWindow", handle=handle)
            found.add((await self.call("WebDriver:GetCurrentURL"))["value"])
        return found

    async def call(self, name: str, **parameters: str):
        """Send a command and return its result."""
        text = json.dumps([0, 1, name, parameters]).encode()
        await self._stream.send_all(b"%d:%b" % (len(text), text))
        _type, _number, error, result = await self._message()
        assert error is None, error
        return result

    async def _message(self):
        while b":" not in self._received:
            self._received += await self._stream.receive_some()
        size, _, rest = self._received.partition(b":")
        while len(rest) < int(size):
            rest += await self._stream.receive_some()
        self._received = rest[int(size) :]
        return json.loads(rest[: int(size)])


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
        port = profile / "MarionetteActivePort"

        async def listens() -> bool:
            return port.exists() and port.read_text().isdecimal()

        await eventually(listens, deadline=120)
        async with await trio.open_tcp_stream("127.0.0.1", int(port.read_text())) as s:
            browser = Marionette(s)
            with trio.fail_after(120):
                await browser.hello()
                yield browser
    finally:
        await child.stop()


async def test_a_browser_of_an_image_opens_its_own_page_only(tmp_path):
    policies = tmp_path / "policies.json"
    written = CUSTOMIZE.read_text().partition("<<'POLICIES'\n")[2]
    policies.write_text(written.partition("\nPOLICIES\n")[0])
    async with started(tmp_path / "plain", None) as browser:
        pages = await browser.pages()
        assert "about:welcome" in pages, "without policies it welcomes"
        assert len(pages) > 1, "and opens a page about privacy"
    async with started(tmp_path / "quiet", policies) as browser:
        assert await browser.pages() == {"about:home"}
