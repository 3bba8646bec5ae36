"""``brokerctl labels --sway`` in a real sway: the label is in its titles only."""

from __future__ import annotations

import shutil

import pytest

from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.process.spawn import spawn
from tests.kit.brokerctl import brokerctl, home, paths_of
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import desktop, pixels, windows
from tests.kit.wayland.stand import filtered
from tests.kit.world import record

pytestmark = pytest.mark.skipif(
    not (shutil.which("sway") and shutil.which("foot")), reason="no sway or foot"
)

RED = (0xC0, 0x10, 0x20)
CONFIG = "font pango:monospace 10\ndefault_border normal\n"


async def _labels() -> str:
    with home() as env:
        folder = paths_of(env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        (folder / "web.toml").write_text(record(colour="#c01020"))
        return (await brokerctl("labels", "--sway", env=env)).out


async def _titles(comp) -> dict[str, int]:
    """By application id: pixels of the label's colour in the window's title bar."""
    image = await pixels(comp)
    found = {}
    for node in windows(await comp.tree()):
        # The bar lies above the rectangle of the window.
        bar, left, low = node["deco_rect"], node["rect"]["x"], node["rect"]["y"]
        box = (left, low - bar["height"], left + bar["width"], low)
        colours = image.crop(box).getcolors(1 << 20) or []
        found[node["app_id"]] = sum(n for n, colour in colours if colour == RED)
    return found


async def test_titles_have_the_label_s_colour():
    """A program of one's own with nearly the same application id has none of it."""
    config = CONFIG + await _labels()
    rules = WindowRules("web-1234", color=0xC01020)
    async with desktop(config_extra=config) as comp, filtered(comp, rules) as it:
        it.run("foot", "-T", "inside", "sleep", "1000")
        outside = ("foot", "--app-id=vitrail.webs.foot", "-T", "outside")
        env = {**comp.environment, "WAYLAND_DISPLAY": str(comp.display)}
        it.children.append(spawn([*outside, "sleep", "1000"], env=env))

        async def both():
            counts = await _titles(comp)
            inside = [
                n for app_id, n in counts.items() if app_id.startswith("vitrail.web-")
            ]
            return len(counts) == 2 and inside and inside[0] > 200 and counts

        counts = await eventually(both, deadline=60)
        assert counts["vitrail.webs.foot"] == 0
