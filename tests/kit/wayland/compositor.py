"""A real compositor without a screen, for the end-to-end tests.

``async with desktop() as comp`` gives a running sway in a short directory of
its own; the other functions ask it what a person would see.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from PIL import Image

from broker.cli.headless_sway import HeadlessCompositor, open_headless_sway
from broker.core import limits
from broker.helpers.process.spawn import Child, run_tool
from tests.kit.eventually import NeverError, eventually, ready
from tests.kit.vm.tinyguest import ordinary_user


@contextmanager
def short_directory() -> Iterator[Path]:
    """A private directory whose name leaves room for socket names."""
    path = Path(tempfile.mkdtemp(prefix="vt-", dir="/tmp"))
    try:
        yield path
    finally:
        # Podman's clean-up after a container that was killed may still write here.
        deadline = time.monotonic() + 10
        while path.exists():
            try:
                shutil.rmtree(path)
            except OSError as error:
                changed = error.errno in {errno.ENOTEMPTY, errno.ENOENT}
                if not changed or time.monotonic() > deadline:
                    raise


@asynccontextmanager
async def desktop(*, size: tuple[int, int] = (1280, 800), config_extra: str = ""):
    """A running headless sway; fails with a sentence when run as root."""
    ordinary_user()
    with short_directory() as path:
        comp = await open_headless_sway(
            path / "run", size=size, config_extra=config_extra
        )
        async with comp:
            yield comp


def windows(tree: dict) -> list[dict]:
    """The windows in sway's tree: those of its nodes that belong to a client."""
    found = [tree] if tree.get("pid") and tree.get("type") != "root" else []
    for child in [*tree.get("nodes", []), *tree.get("floating_nodes", [])]:
        found += windows(child)
    return [node for node in found if node.get("type") in {"con", "floating_con"}]


async def steady(look: Callable[[], Awaitable[Any]], *, times: int = 4) -> Any:
    """Return the value of ``look`` once it is the same ``times`` times in a row.

    For a reference count: one that was taken during a clean-up is never reached
    again.  Returns the last value if it does not settle within 20 seconds.
    """
    last, same = await look(), 1
    with trio.move_on_after(20):
        while same < times:
            await trio.sleep(0.1)
            now = await look()
            same = same + 1 if now == last else 1
            last = now
    return last


async def wait_window(
    comp: HeadlessCompositor,
    *,
    title: str = "",
    count: int = 1,
    deadline: float = 60,
    of: Child | None = None,
) -> list[dict]:
    """Wait for ``count`` windows whose title has ``title`` in it.

    ``of``: the process that shows them; fails as soon as it ends.
    """

    async def look() -> list[dict]:
        found = windows(await comp.tree())
        found = [node for node in found if title in (node.get("name") or "")]
        return found if len(found) >= count else []

    if of is not None:
        return await ready(of, look, deadline=deadline)
    return await eventually(look, deadline=deadline)


async def pixels(comp: HeadlessCompositor) -> Image.Image:
    """Return a screenshot; not by PNG, which takes two thirds of its processor time."""
    with short_directory() as path:
        file = path / "screen.ppm"
        await run_tool(
            ["grim", "-t", "ppm", str(file)],
            env=comp.environment,
            deadline=limits.COMPOSITOR_TOOL_SECONDS,
        )
        with Image.open(file) as image:
            return image.convert("RGB")


async def frames(comp: HeadlessCompositor, *, width: int = 4) -> dict[str, set[tuple]]:
    """By title: all colours within ``width`` pixels of each window's four edges."""
    found = windows(await comp.tree())
    image = await pixels(comp)
    return {node["name"]: edges(image, node, width) for node in found}


async def wait_frames(comp: HeadlessCompositor, wanted: dict[str, set[tuple]]) -> None:
    """Wait until these windows, and no others, have edges of these colours.

    A window that has just come may not have its place's size yet.
    """
    last = None

    async def reached() -> bool:
        nonlocal last
        last = await frames(comp)
        return last == wanted

    with suppress(NeverError):
        await eventually(reached)
    assert last == wanted


def edges(image: Image.Image, window: dict, width: int) -> set[tuple]:
    """All colours within ``width`` pixels of a window of sway's tree, at its edges."""
    # Inside what sway draws around a window itself.
    rect, inner = window["rect"], window["window_rect"]
    left, top = rect["x"] + inner["x"], rect["y"] + inner["y"]
    right, bottom = left + inner["width"], top + inner["height"]
    strips = [
        (left, top, right, top + width),
        (left, bottom - width, right, bottom),
        (left, top, left + width, bottom),
        (right - width, top, right, bottom),
    ]
    found = set()
    for strip in strips:
        found |= {colour for _, colour in image.crop(strip).getcolors(1 << 20)}
    return found
