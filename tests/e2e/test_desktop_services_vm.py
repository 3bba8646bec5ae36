"""Services of the desktop for programs of a micro VM: a printer, notifications."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec
from tests.integration.test_printing import dark, printed
from tests.integration.test_sanitize import PDF
from tests.kit.cups import printers
from tests.kit.notified import notification_server
from tests.kit.wayland.compositor import short_directory
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PACKAGES = ("dbus-daemon", "libnotify-bin", "poppler-utils")
IMAGE = ImageSpec(name="services", packages=(*DEFAULT_PACKAGES, *PACKAGES))
RECORD = record(colour="green", launch='image = "services"\nboot_deadline = 180')


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
