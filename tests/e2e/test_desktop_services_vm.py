"""Services of the desktop for programs of a micro VM: a printer, the camera, a screen.

The image has a session bus and GStreamer; what the machine's programs get is shown by
them in a window, and looked at there.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec
from tests.integration.test_printing import answered, dark, printed
from tests.integration.test_sanitize import PDF
from tests.kit.cameras import CLIENT, camera, pipewire
from tests.kit.cups import printers
from tests.kit.eventually import eventually
from tests.kit.notified import notification_server
from tests.kit.screen_casts import SHARER, screen_portal
from tests.kit.wayland.compositor import pixels, short_directory, wait_window
from tests.kit.wayland.pixels import near
from tests.kit.wayland.resizing import kept
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PACKAGES = (
    *("dbus-daemon", "python3-jeepney", "libnotify-bin", "pipewire", "wireplumber"),
    *("gstreamer1.0-tools", "gstreamer1.0-pipewire", "gstreamer1.0-plugins-base"),
    *("gstreamer1.0-plugins-bad", "poppler-utils"),
)
IMAGE = ImageSpec(name="services", packages=(*DEFAULT_PACKAGES, *PACKAGES))
RECORD = record(colour="green", launch='image = "services"\nboot_deadline = 180')
SHOWN = (
    *("!", "queue", "max-size-buffers=1", "leaky=downstream", "!", "videorate"),
    *("!", "video/x-raw,framerate=2/1", "!", "videoconvert", "!", "waylandsink"),
    "sync=false",
)
RED, BLUE, WHITE = 0xBF0000, 0x0000BF, 0xBFBFBF
"""Bars of SMPTE's pattern at 75 %."""


@asynccontextmanager
async def serving(rules, env=()):
    """A broker whose desktop has notifications; yields it and its screen."""
    await the_image()  # and what else a machine needs
    assert await build_image(find_paths(), IMAGE, print)
    async with world({"app": RECORD}, start=False) as w:
        folder = w.paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        (folder / "30-mine.policy").write_text(rules)
        async with notification_server(w.comp, w.environ) as screen:
            w.environ.update(screen.env)
            w.environ.update(env)
            yield w, screen
            await w.shutdown()


async def run(w, *argv, window=True):
    """Run a program of the machine; the sandbox's name."""
    with trio.fail_after(400):
        last, _ = await w.run("app", *argv, window=window)
    return last.started.sandbox


async def test_a_program_of_a_machine_prints_and_notifies():
    with short_directory() as folder:
        async with printers(folder, "Home", "Office") as cups:
            rules = "vitrail.Print * app @adminvm allow\n"
            rules += "vitrail.Notification * app @adminvm allow\n"
            env = {**cups.env, "XDG_CACHE_HOME": str(find_paths().cache.parent)}
            async with serving(rules, env) as (w, screen):
                await w.start()
                script = (
                    "cat > /tmp/a.pdf <<END\n" + PDF.decode("latin-1") + "\nEND\n"
                    "vitrail-print /tmp/a.pdf && notify-send 'it is printed'; sleep 1000"
                )
                sandbox = await run(w, "sh", "-c", script, window=False)
                (job,) = await printed(cups)
                assert (job.printer, job.title) == ("Home", f"{sandbox}: a.pdf")
                black, width = dark(job.content)
                assert 500 < black < 30_000
                assert width == 300
                notice = await screen.one_with("it is printed")
                assert notice[1].startswith(sandbox)


async def test_a_program_of_a_machine_sees_the_camera_until_it_is_taken_back():
    async with (
        serving("vitrail.Camera + app @adminvm allow\n") as (w, screen),
        pipewire(screen.env),
        camera(screen.env),
    ):
        await w.start()
        sandbox = await run(w, "python3", "-c", CLIENT, *SHOWN)
        await wait_window(w.comp, title=f"[{sandbox}] ", deadline=200)

        async def coloured():
            image = await pixels(w.comp)
            bars = [int(near(image, one, 40).sum()) for one in (RED, BLUE)]
            return min(bars) > 2000 and image

        kept("camera-vm", await eventually(coloured, deadline=120))
        await screen.one_with(f"{sandbox} uses your camera")


async def test_a_program_of_a_machine_sees_a_screen_that_the_user_has_chosen():
    async with (
        serving("vitrail.ScreenShare + app @adminvm allow\n") as (w, screen),
        pipewire(screen.env),
        screen_portal(screen, w.base),
    ):
        await w.start()
        sandbox = await run(w, "python3", "-c", SHARER, "1", *SHOWN)
        asked = await answered(w, "allow")
        assert asked["sandbox"] == sandbox
        await wait_window(w.comp, title=f"[{sandbox}] ", deadline=200)
        kept("screen-vm", await pixels(w.comp))
        (event,) = w.events("screen.on", sandbox=sandbox)
        assert (event["width"], event["height"]) == (1280, 800)
