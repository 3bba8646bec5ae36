"""Pictures of a window while it changes size: is its border ever missing?"""

from __future__ import annotations

import os
import re
from pathlib import Path

import trio
from PIL import Image

from broker.cli.headless_sway import HeadlessCompositor
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels
from tests.kit.wayland.pixels import frames, near, outside


def kept(name: str, image: Image.Image) -> None:
    """Keep a picture for people, where the run keeps its results."""
    out = os.environ.get("VITRAIL_OUT")
    if out:
        place = Path(out) / f"{name}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)


def picture_name(what: str) -> str:
    """The name of a picture of the test that runs."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split("::")[-1]
    plain = re.sub(r"[^A-Za-z0-9.=-]+", "-", test.removesuffix(" (call)"))
    return f"applications/{plain.strip('-')}-{what}"


async def while_resizing(
    comp: HeadlessCompositor,
    name: str,
    frame: int,
    content: int | None,
    *,
    pace: float = 0.1,
) -> int:
    """Resize the only window; every picture taken meanwhile shows it whole.

    ``frame`` is the border's colour, ``content`` one that only the application
    has, ``pace`` the seconds between two sizes.  Returns how many pictures there
    were.
    """
    begin = "border none, floating enable, resize set 500 400, move position 10 10"

    async def whole() -> bool:
        await comp.command(begin)  # a window that has just come takes it or not
        found = frames(await pixels(comp), frame)
        # Small already: a large one would leave the screen where it is now.
        return any(f.border >= 4 and 100 < f.w < 520 for f in found)

    await eventually(whole)
    pictures: list[Image.Image] = []
    done = trio.Event()

    async def photograph() -> None:
        while not done.is_set():
            pictures.append(await pixels(comp))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(photograph)
        for step in range(12):
            width, height = 500 + step * 40, 400 + (step % 4) * 60
            # sway grows a window around its middle, which may leave the screen.
            await comp.command(f"resize set {width} {height}, move position 10 10")
            await trio.sleep(pace)
        done.set()
    sizes = set()
    for number, image in enumerate(pictures):
        found = [f for f in frames(image, frame) if f.w > 200]
        if not found:
            kept(f"{name}-without-border", image)
        assert found, f"picture {number} shows a window without a whole border"
        assert min(f.border for f in found) >= 4
        sizes |= {(f.w, f.h) for f in found}
        if content is not None:
            inner = [(f.x + 4, f.y + 4, f.w - 8, f.h - 8) for f in found]
            assert outside(near(image, content, 2), inner) == 0, number
    assert len(sizes) > 3, f"it was seen in {len(sizes)} sizes only"
    return len(pictures)
