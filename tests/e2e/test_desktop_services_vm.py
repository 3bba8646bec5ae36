"""Services of the desktop for programs of a micro VM.

A printer, notifications, the camera, a screen.  What the machine
sees is shown by its programs in a window, and looked at there.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.helpers.process.spawn import spawn
from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec
from tests.integration.test_printing import answered, dark, printed
from tests.integration.test_sanitize import PDF
from tests.kit.brokerctl import brokerctl
from tests.kit.cameras import CLIENT, camera, pipewire, stands_still
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
SHOWN = (
    *("!", "queue", "max-size-buffers=1", "leaky=downstream", "!", "videorate"),
    *("!", "video/x-raw,framerate=2/1", "!", "videoconvert", "!", "waylandsink"),
    "sync=false",
)
FEW_PLUGINS = """
mkdir /tmp/plugins
for name in coreelements pipewire videoconvertscale videorate waylandsink; do
    ln -s /usr/lib/*/gstreamer-1.0/libgst$name.so /tmp/plugins
done
GST_PLUGIN_SYSTEM_PATH=/tmp/plugins exec "$@"
"""
"""GStreamer loads each plugin once to list it, which takes an emulated machine long."""
RED, BLUE = 0xFF0000, 0x0000FF
"""Bars of SMPTE's pattern."""
MINE = 0x8000C0
"""A window of the desktop."""
MANY = 500
"""Pixels of a colour, of those that a picture has."""
RECORD = record(colour="green", launch='image = "services"\nboot_deadline = 180')


@asynccontextmanager
async def serving(rules, env=()):
    """A broker whose desktop has notifications; yields it and its screen."""
    await the_image()  # and what else a machine needs
    assert await build_image(find_paths(), IMAGE, print)
    async with world({"app": RECORD}, start=False) as w:
        w.write_rules(rules)
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


async def run_in_terminal(w, *argv):
    """Run a program in a terminal of the machine, which stays; the sandbox's name."""
    words = ("foot", "-H", "-T", "terminal", "sh", "-c", FEW_PLUGINS, "sh")
    return await run(w, *words, *argv)


async def second_window(w, sandbox):
    """Wait for the window that the program in the terminal opens."""
    title = f"[{sandbox}]"
    await wait_window(w.comp, title=title, count=2, deadline=240)
    (found,) = (
        one
        for one in await wait_window(w.comp, title=title)
        if "terminal" not in one["name"]
    )
    return found["rect"]


async def shown_in(w, rect):
    """What the screen shows in a rectangle of it."""
    left, top = rect["x"], rect["y"]
    right, bottom = left + rect["width"], top + rect["height"]
    return (await pixels(w.comp)).crop((left, top, right, bottom))


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


async def test_a_program_of_a_machine_sees_the_camera_until_its_rule_goes():
    async with (
        serving("vitrail.Camera + app @adminvm allow\n") as (w, screen),
        pipewire(screen.env),
        camera(screen.env),
    ):
        await w.start()
        sandbox = await run_in_terminal(w, "python3", "-c", CLIENT, *SHOWN)
        try:
            rect = await second_window(w, sandbox)

            async def bars():
                image = await shown_in(w, rect)
                return min(int(near(image, one, 40).sum()) for one in (RED, BLUE))

            async def coloured():
                return await bars() > MANY

            await eventually(coloured, deadline=240)
            kept("camera-vm", await pixels(w.comp))
            await screen.one_with(f"{sandbox} uses your camera")
            (w.paths.config[0] / "policy.d" / "30-mine.policy").write_text("")
            await w.wait_event("camera.off", sandbox=sandbox)
            await eventually(lambda: stands_still(screen.env, "webcam"))

            async def black():
                image = await shown_in(w, rect)
                dark = int(near(image, 0, 40).sum())
                return dark > MANY and await bars() == 0

            await eventually(black, deadline=240)
        finally:
            kept("camera-vm-end", await pixels(w.comp))


async def test_a_program_of_a_machine_sees_the_screen_that_the_user_has_chosen():
    async with (
        serving("vitrail.ScreenShare + app @adminvm allow\n") as (w, screen),
        pipewire(screen.env),
        screen_portal(screen, w.base),
    ):
        await w.start()
        words = ("-o", "colors.background=8000c0", "-T", "mine", "sleep", "1000")
        mine = spawn(["foot", *words], env={**os.environ, **w.comp.environment})
        try:
            await wait_window(w.comp, title="mine")
            sandbox = await run_in_terminal(w, "python3", "-c", SHARER, "1", *SHOWN)
            asked = await answered(w, "allow")
            assert asked["sandbox"] == sandbox
            rect = await second_window(w, sandbox)

            async def seen():
                image = await shown_in(w, rect)
                return int(near(image, MINE, 24).sum()) > MANY

            await eventually(seen, deadline=240)
            kept("screen-vm", await pixels(w.comp))
            await screen.one_with(f"{sandbox} sees your screen")
            (event,) = w.events("screen.on", sandbox=sandbox)
            assert (event["width"], event["height"]) == (1280, 800)
            words = ("device", "detach", f"screen:{sandbox}")
            assert (await brokerctl(*words, env=w.environ)).code == 0
            assert len(w.events("screen.off", sandbox=sandbox)) == 1

            async def gone():
                title = f"[{sandbox}]"
                one = len(await wait_window(w.comp, title=title)) == 1
                return one and not near(await shown_in(w, rect), MINE, 24).any()

            await eventually(gone, deadline=240)
        finally:
            kept("screen-vm-end", await pixels(w.comp))
            await mine.stop()
