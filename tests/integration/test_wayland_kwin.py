"""KWin's own rules for windows, and its security contexts, as the documentation has them.

KWin 5.27 of Debian 12, and KWin 6 of a suite newer than Debian 13; both in a window of
sway, which takes the pictures.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from PIL import Image

from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.process.spawn import DEVNULL, spawn
from broker.jail.wayland.security_context import open_context
from tests.integration.test_wayland_newer import globals_by, proxied
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.wayland.compositor import pixels
from tests.kit.wayland.pixels import Found, frames, mask
from tests.kit.wayland.stand import FRAME, NEWEST_KWIN, filtered, nested, screen_for

KINDS = [
    pytest.param("kwin", marks=requires("kwin_wayland")),
    pytest.param(NEWEST_KWIN, marks=pytest.mark.long),
]
SIZE = (700, 500)
NAMED = 20
"""Rows of a frame's upper edge with the sandbox's name."""
CLASS = r"vitrail\.mail"
REGULAR_EXPRESSION, FORCE = 3, 2
"""Numbers of kwinrulesrc for *Regular Expression* and *Force*."""


def rules(directory: Path) -> dict[str, str]:
    """KWin's environment in which windows of one sandbox have a size of the rule's."""
    directory.mkdir()
    written = CLASS.replace("\\", r"\\")  # KConfig's own escape
    (directory / "kwinrulesrc").write_text(
        "[General]\ncount=1\nrules=1\n\n[1]\nDescription=Sandbox\n"
        f"wmclass={written}\nwmclassmatch={REGULAR_EXPRESSION}\n"
        f"size={SIZE[0]},{SIZE[1]}\nsizerule={FORCE}\n"
    )
    return {"XDG_CONFIG_HOME": str(directory)}


def program(comp, path: Path, *more: str):
    """The GTK 3 demo on that socket; foot 1.13 dies on a nested KWin, unfiltered too."""
    return spawn(
        ["gtk3-demo", *more],
        env={
            **comp.environment,
            "GDK_BACKEND": "wayland",
            "WAYLAND_DISPLAY": str(path),
        },
        stdout=DEVNULL,
        stderr=DEVNULL,
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_a_rule_of_kwin_finds_the_sandbox_by_its_window_class(kind):
    page = (Path(__file__).parents[2] / "docs/wayland.md").read_text()
    recipe = f"Window class, Regular expression `{CLASS}`".replace("mail", "untrusted")
    assert recipe in page
    async with screen_for(kind) as comp:
        environment = rules(comp.display.parent / "config")
        async with nested(comp, kind, **environment) as inner:
            sizes = {}
            for name in ("mail", "other"):
                async with proxied(inner, name) as path:
                    app = program(inner, path)

                    async def framed() -> list[tuple[int, int]]:
                        found = frames(await pixels(comp), FRAME)
                        return [(f.w, f.h) for f in found if f.w > 300]

                    (sizes[name],) = await eventually(framed, deadline=40)
                    await app.stop()
    assert sizes["mail"] == SIZE
    assert sizes["other"] != SIZE


@pytest.mark.parametrize("kind", KINDS)
async def test_kwin_draws_the_title_bar_of_a_gtk_window_without_a_header_bar(kind):
    """The demo has two windows; the one with a header bar has the sandbox's name."""
    rules = WindowRules("work", color=FRAME, label=None, top=4, named_top=NAMED)
    async with screen_for(kind) as comp:
        settings = comp.display.parent / "settings"
        settings.mkdir()
        async with (
            nested(comp, kind, XDG_CONFIG_HOME=str(settings)) as inner,
            filtered(comp, rules, behind=inner.display) as it,
        ):
            app = program(inner, it.path, "--run=dialog")

            async def both() -> bool:
                image = await pixels(comp)
                windows = [f for f in frames(image, FRAME) if f.w > 300]
                return sorted(upper_edge(image, f) for f in windows) == [4, NAMED]

            await eventually(both, deadline=60)
            await app.stop()


def upper_edge(image: Image.Image, frame: Found) -> int:
    """Return how many rows a frame has, right of any name."""
    inside = mask(image, FRAME)[frame.y :, frame.x + frame.w - 8]
    return int(inside.argmin())


@pytest.mark.long
async def test_kwin_treats_connections_of_the_security_context_as_sandboxed():
    async with (
        screen_for(NEWEST_KWIN) as comp,
        nested(comp, NEWEST_KWIN) as inner,
    ):
        context = open_context(inner.display, "mail")
        assert context is not None
        free = await trio.to_thread.run_sync(globals_by, inner.display)
        boxed = await trio.to_thread.run_sync(globals_by, context.connect())
        assert free - boxed
        assert "wp_security_context_manager_v1" not in boxed
        assert "xdg_wm_base" in boxed
        context.close()
