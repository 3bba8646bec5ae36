"""Browsers of sandboxes see the screen and the camera of the desktop, by WebRTC.

They ask the portal in the sandbox, and take BGRx of screens and I420 of cameras, in
memory that has a descriptor.
"""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager

import pytest

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.integration.test_camera import seeing
from tests.integration.test_printing import answered
from tests.integration.test_screen_share import COLOUR, sharing
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.wayland.browsing import clicked
from tests.kit.wayland.compositor import pixels, wait_window, windows

pytestmark = [pytest.mark.long, requires("waypipe", "mako", "dbus-daemon", "pipewire")]
PAGE = """<meta charset=utf-8><title>ready</title>
<button id=b style="width: 100%; height: 95vh">Share</button>
<video id=v autoplay muted style="width: 100%"></video><script>
b.onclick = async () => {
  document.title = "asks";
  const stream = await navigator.mediaDevices.CALL({video: true});
  b.remove();
  v.srcObject = stream;
  const canvas = document.createElement("canvas"), c = canvas.getContext("2d");
  const looking = setInterval(() => {
    if (!v.videoWidth) return;
    [canvas.width, canvas.height] = [v.videoWidth, v.videoHeight];
    c.drawImage(v, 0, 0);
    const [red, green, blue] = c.getImageData(PLACE, 1, 1).data;
    document.title = `sees ${red} ${green} ${blue}`;
  }, 200);
  stream.getVideoTracks()[0].onended = () => {
    clearInterval(looking);
    document.title = "over";
  };
}</script>"""
OPTIONS = {
    "chromium": (
        *("--no-sandbox", "--ozone-platform=wayland", "--disable-gpu"),
        *("--no-first-run", "--password-store=basic", "--user-data-dir={profile}"),
        *("--use-fake-ui-for-media-stream", "--enable-features=WebRtcPipeWireCamera"),
    ),
    "firefox-esr": ("--no-remote", "--profile", "{profile}"),
}
PREFERENCES = """
user_pref("media.navigator.permission.disabled", true);
user_pref("media.webrtc.camera.allow-pipewire", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.tabs.inTitlebar", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.reportingpolicy.firstRun", false);
"""
TOP, RED = "canvas.width / 2, 2", "canvas.width * 11 / 14, canvas.height / 2"
BROWSERS = pytest.mark.parametrize("name", OPTIONS)


class Shown:
    """A browser's page, by the title of its window."""

    def __init__(self, screen, name: str) -> None:
        self.screen, self.name = screen, name

    async def _title(self, word: str) -> str:
        titles = [node["name"] for node in windows(await self.screen.comp.tree())]
        return next((title for title in titles if f"] {word}" in title), "")

    async def sees(self, colour) -> None:
        """Wait until the picture has about that colour at the page's place."""

        async def look() -> bool:
            words = (await self._title("sees")).split()[2:5]
            return bool(words) and all(
                abs(int(word) - part) < 40
                for word, part in zip(words, colour, strict=True)
            )

        await eventually(look, deadline=90)
        if out := os.environ.get("VITRAIL_OUT"):
            (await pixels(self.screen.comp)).save(f"{out}/{self.name}.png")

    async def over(self) -> None:
        """Wait until the page's stream has ended."""
        await eventually(lambda: self._title("over"))

    async def clicked(self) -> None:
        """Click until the page asks."""
        await clicked(self.screen.comp, lambda: self._title("asks"))


@asynccontextmanager
async def browser(work, screen, name, call, place):
    """A browser of a guest, in which a page has been clicked that asks for pictures."""
    if shutil.which(name) is None:
        pytest.skip(f"not installed: {name}")
    profile, page = work.home / "profile", work.home / "page.html"
    profile.mkdir()
    (profile / "user.js").write_text(PREFERENCES)
    page.write_text(PAGE.replace("CALL", call).replace("PLACE", place))
    env = {
        **work.env,
        "WAYLAND_DISPLAY": f"{work.env['XDG_RUNTIME_DIR']}/wayland-0",
        "XDG_SESSION_TYPE": "wayland",
        "MOZ_ENABLE_WAYLAND": "1",
        "GDK_BACKEND": "wayland",
    }
    words = [word.format(profile=profile) for word in OPTIONS[name]]
    argv = [name, *words, f"file://{page}"]
    child = spawn(argv, env=env, stdout=DEVNULL, stderr=DEVNULL)
    try:
        await wait_window(screen.comp, title="ready")
        shown = Shown(screen, f"{name}-{call}")
        await shown.clicked()
        yield shown
    finally:
        await child.stop()


@BROWSERS
async def test_a_browser_sees_the_screen_until_its_share_ends(name):
    async with (
        sharing() as (w, screen, work, _choice),
        browser(work, screen, name, "getDisplayMedia", TOP) as page,
    ):
        assert (await answered(w, "allow"))["sandbox"] == "work"
        await page.sees(COLOUR)  # the frame around what is shared
        event = await w.only_event("screen.on", sandbox="work")
        assert (event["width"], event["height"]) == (1280, 800)
        (w.paths.config[0] / "policy.d" / "30-mine.policy").write_text("")
        await w.wait_event("screen.off", sandbox="work")
        await page.over()


@BROWSERS
async def test_a_browser_sees_the_camera_until_its_rule_ends(name):
    async with (
        seeing() as (w, screen, work, _personal),
        browser(work, screen, name, "getUserMedia", RED) as page,
    ):
        await page.sees((253, 0, 0))  # the sixth of SMPTE's bars
        await w.only_event("camera.on", sandbox="work")
        (w.paths.config[0] / "policy.d" / "30-mine.policy").write_text("")
        await w.wait_event("camera.off", sandbox="work")
        await page.sees((0, 0, 0))


async def test_chromium_shares_a_window_of_its_own_sandbox():
    rules = "vitrail.ScreenShare +own work @adminvm allow\n"
    async with (
        sharing(rules) as (w, screen, work, _choice),
        browser(work, screen, "chromium", "getDisplayMedia", TOP) as page,
    ):
        await page.sees((211, 227, 253))  # its bar of tabs, and no frame of ours
        event = await w.only_event("screen.on", sandbox="work")
        assert event["shows"] == "own-window"
