"""Applications of a micro VM through the whole chain, judged by the screen's picture.

foot, a GTK program and a still page in a browser: framed on all four sides,
at rest and in every picture that is taken while they change size.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels, wait_window, windows
from tests.kit.wayland.pixels import frames, mask, near, outside
from tests.kit.wayland.resizing import kept, while_resizing
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

PACKAGES = ("gtk-3-examples", "netsurf-gtk", "adwaita-icon-theme")
IMAGE = ImageSpec(name="desktop", packages=(*DEFAULT_PACKAGES, *PACKAGES))
FRAME = 0xD55E00  # the palette's red
PAGE = 0x3366CC
FOOT = 0x00AA44
RECORD = record(colour="red", launch='image = "desktop"\nboot_deadline = 180')

HTML = '<title>still page</title><body style="background:#3366cc"><h1>A still page</h1>'

PROGRAMS = {
    "foot": (
        "foot", "-o", "tweak.max-shm-pool-size-mb=0", "-o",
        f"colors.background={FOOT:06x}", "-T", "terminal", "sleep", "1000",
    ),
    "gtk": ("gtk3-demo",),
    "browser": (
        "sh", "-c",
        f"echo '{HTML}' > /tmp/page.html; exec netsurf-gtk file:///tmp/page.html",
    ),
}  # fmt: skip
TITLES = {"foot": "terminal", "gtk": "Application Class", "browser": "still page"}
SCREEN = (0, 0, 1280, 800)
"""One window fills the screen, and the frame is its outermost pixels."""
CONTENT = {"foot": FOOT, "browser": PAGE}
"""A colour that only the application has, where it has one."""


@asynccontextmanager
async def desktop_world():
    """A broker whose sandboxes run the image with a desktop's programs."""
    await the_image()  # and what else a machine needs
    image = await build_image(find_paths(), IMAGE, print)
    assert image
    async with world({"app": RECORD}) as w:
        await w.comp.command("default_border none")
        await w.comp.command("default_floating_border none")
        yield w


def _content_shown(image, kind):
    spots = near(image, CONTENT[kind], 2) if kind in CONTENT else ~mask(image, FRAME)
    return int(spots.sum())


async def settled(w, kind):
    """A picture in which the frame is whole and the content is drawn."""

    async def look():
        image = await pixels(w.comp)
        whole = [f for f in frames(image, FRAME) if f[:4] == SCREEN and f.border >= 4]
        return whole and _content_shown(image, kind) > 5000 and image

    return await eventually(look, deadline=120)


@pytest.mark.parametrize("kind", PROGRAMS)
async def test_a_program_of_a_machine_lives_in_its_frame(kind):
    async with desktop_world() as w:
        with trio.fail_after(400):
            last, _ = await w.run("app", *PROGRAMS[kind])
        sandbox = last.started.sandbox
        # An emulated machine on a busy one takes its time to start a toolkit.
        (window,) = await wait_window(w.comp, title=f"[{sandbox}] ", deadline=200)
        assert window["app_id"].startswith(f"vitrail.{sandbox}")
        image = await settled(w, kind)
        kept(f"desktop-vm-{kind}", image)

        async def titled():
            return TITLES[kind] in windows(await w.comp.tree())[0]["name"]

        await eventually(titled, deadline=60)
        if kind in CONTENT:
            spots = near(image, CONTENT[kind], 2)
            assert outside(spots, [(4, 4, 1272, 792)]) == 0

        content = CONTENT.get(kind)
        name = f"desktop-vm-{kind}"
        # Toolkits draw slowly in an emulated machine.
        shown = await while_resizing(w.comp, name, FRAME, content, pace=0.6)
        assert shown >= 6, "pictures that show the window"
        assert (await w.status()).sandboxes[0].name == sandbox
