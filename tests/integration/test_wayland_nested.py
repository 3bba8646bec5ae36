"""GTK 4 on weston and KWin: the pointer hits the widget under it, popovers are framed."""

from __future__ import annotations

import pytest
import trio

from tests.attack.test_wayland_crop import shown_on
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.wayland.compositor import pixels
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.pixels import frames
from tests.kit.wayland.stand import FRAME, NEWEST_KWIN, SIZE

KINDS = [
    "weston",
    pytest.param("kwin", marks=requires("kwin_wayland")),
    pytest.param(NEWEST_KWIN, marks=pytest.mark.long),
]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_popover_opens_from_the_button_that_was_clicked(kind):
    async with shown_on(kind) as it:
        with Pointer(it.comp.display, SIZE) as mouse:
            # A nested compositor has a pointer once it was over its window.
            await trio.to_thread.run_sync(mouse.move, 640, 400)
            child = it.run("gtk4-demo", GTK_A11Y="none")

            async def window():
                found = [f for f in frames(await pixels(it.comp), FRAME) if f.w > 400]
                return found[0] if found and found[0].border == 4 else None

            frame = await eventually(window)
            # The menu button of GTK 4's header bar, left of the close button:
            # hit only if coordinates are those of the content.
            spot = (frame.x + frame.w - 76, frame.y + 28)

            async def opened() -> bool:
                if not it.sandbox.totals["popups"]:
                    await trio.to_thread.run_sync(mouse.click, *spot)
                    await trio.sleep(1)
                return it.sandbox.totals["popups"] > 0

            await eventually(opened)

            async def framed() -> bool:
                # The popover's frame meets the window's, so that only its
                # outer corner is looked for: colour right of the window.
                image = await pixels(it.comp)
                beside = image.crop(
                    (frame.x + frame.w, frame.y, frame.x + frame.w + 60, frame.y + 200)
                )
                return (0xD0, 0x10, 0x10) in [
                    c for _, c in beside.getcolors(1 << 20) or []
                ]

            await eventually(framed)
            assert it.ends == []
            await child.stop()
