"""The filter before newer compositors than our Debian's: sway and labwc of later ones.

They have wp_security_context_v1, newer versions of what frames are made of,
and a renderer that crops where ours of Debian 12 does not.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.process.spawn import DEVNULL, has_ended, spawn
from broker.jail.wayland.security_context import open_context
from tests.attack.test_wayland_crop import cropped, leak
from tests.attack.test_wayland_pixels import PAINT, try_windows
from tests.kit.eventually import eventually, ready
from tests.kit.listening import takes_connections
from tests.kit.vm.newer_suite import NEWEST, SUITE, newer
from tests.kit.wayland.client import Client, Window
from tests.kit.wayland.compositor import desktop, pixels, wait_window
from tests.kit.wayland.pixels import frames, mask
from tests.kit.wayland.stand import CONFIG, FRAME, GUEST, SIZE, filtered

BLUE = 0x1010D0
long = pytest.mark.long
SUITES = pytest.mark.parametrize("suite", [SUITE, NEWEST])
HERE_TOO = [
    "here", pytest.param(SUITE, marks=long), pytest.param(NEWEST, marks=long)
]  # fmt: skip
"""This system's own compositor, and those of the suites."""


def sway_of(suite: str, config: str):
    """A running sway with that configuration."""
    if suite == "here":
        return desktop(config_extra=config)
    return newer("sway", config, suite=suite)


async def test_where_the_compositor_has_no_security_context_there_is_none():
    async with desktop(config_extra=CONFIG) as comp:
        assert open_context(comp.display, "mail") is None


RULE = """<?xml version="1.0"?><labwc_config><windowRules>
<windowRule sandboxEngine="vitrail" sandboxAppId="vitrail.mail"><action name="Maximize"/></windowRule>
</windowRules></labwc_config>"""


@asynccontextmanager
async def proxied(comp, name: str):
    """The socket of a worker's filter for that sandbox."""
    path = comp.display.with_name(name)
    child = spawn(
        [
            *(sys.executable, "-m", "tests.kit.wayland.filter_process"),
            *("--sandbox", name, "--listen", str(path)),
        ],
        env={
            **comp.environment,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        },
    )
    try:
        await ready(child, lambda: takes_connections(path))
        yield path
    finally:
        with trio.CancelScope(shield=True):
            await child.stop()


def terminal(comp, path: Path):
    """A window of 400 x 300 on that socket."""
    return spawn(
        ["foot", "--window-size-pixels=400x300", "sleep", "60"],
        env={**comp.environment, "WAYLAND_DISPLAY": str(path)},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )


@long
@SUITES
async def test_a_rule_of_the_compositor_finds_the_sandbox_by_its_door(suite):
    """The recipe of the documentation, seen working: maximised by labwc's rule."""
    async with newer("labwc", RULE, suite=suite) as comp:
        widths = {}
        for name in ("mail", "other"):
            async with proxied(comp, name) as path:
                foot = terminal(comp, path)

                async def framed() -> list[int]:
                    return [f.w for f in frames(await pixels(comp), FRAME) if f.w > 300]

                (widths[name],) = await eventually(framed)
                await foot.stop()
        assert widths["mail"] > 1000
        assert widths["other"] < 500


SWAY_RULE = 'for_window [app_id="^vitrail\\.mail"] border pixel 6\n'


@pytest.mark.parametrize("suite", HERE_TOO)
async def test_a_rule_of_sway_finds_the_sandbox_by_its_name(suite):
    """The recipe of the documentation, as it is there but for the name."""
    config = f"default_border none\n{SWAY_RULE}"
    sway = sway_of(suite, config)
    page = (Path(__file__).parents[2] / "docs/wayland.md").read_text()
    assert f"`{SWAY_RULE.strip()}`".replace("mail", "untrusted") in page
    async with sway as comp:
        for name, border in (("mail", ("pixel", 6)), ("other", ("none", None))):
            async with filtered(comp, WindowRules(name, color=FRAME)) as it:
                foot = it.run("foot", "sleep", "60")

                # sway lists a window before it looks for rules about it.
                async def bordered(name=name, border=border) -> bool:
                    (node,) = await wait_window(comp, title=f"[{name}]", deadline=40)
                    width = node["current_border_width"] if border[1] else None
                    return (node["border"], width) == border

                await eventually(bordered, deadline=40)
                await foot.stop()


ENGINE_RULE = (
    'for_window [sandbox_engine="vitrail" sandbox_app_id="vitrail.mail"] border pixel 6'
)


@long
async def test_a_rule_of_sway_finds_the_sandbox_by_its_door():
    """The recipe for sway 1.11 and later, which has criteria for security contexts."""
    page = (Path(__file__).parents[2] / "docs/wayland.md").read_text()
    assert f"`{ENGINE_RULE}`".replace("mail", "untrusted") in page
    config = f"default_border none\n{ENGINE_RULE}\n"
    async with newer("sway", config, suite=NEWEST) as comp:
        for name, border in (("mail", "pixel"), ("other", "none")):
            async with proxied(comp, name) as path:
                foot = terminal(comp, path)

                async def bordered(name=name, border=border) -> bool:
                    (node,) = await wait_window(comp, title=f"[{name}]", deadline=40)
                    return node["border"] == border

                await eventually(bordered, deadline=40)
                await foot.stop()


def globals_by(door) -> set[str]:
    with Client(door).start() as client:
        return set(client.globals)


@long
@SUITES
@pytest.mark.parametrize("kind", ["sway", "labwc"])
async def test_a_compositor_treats_connections_of_the_security_context_as_sandboxed(
    kind, suite
):
    async with newer(kind, CONFIG, suite=suite) as comp:
        context = open_context(comp.display, "mail")
        assert context is not None
        # The socket has no name: no other process can connect to it.
        assert list(comp.display.parent.glob("vitrail-*")) == []
        free = await trio.to_thread.run_sync(globals_by, comp.display)
        boxed = await trio.to_thread.run_sync(globals_by, context.connect())
        assert {"zwlr_screencopy_manager_v1", "zwlr_layer_shell_v1"} <= free - boxed
        assert "xdg_wm_base" in boxed
        context.close()


@long
async def test_the_door_closes_with_us():
    async with newer("sway", CONFIG) as comp:
        context = open_context(comp.display, "mail")
        assert context is not None
        place = os.dup(context._place)
        context.close()

        def late() -> None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(f"/proc/self/fd/{place}")

        async def closed() -> bool:
            try:
                await trio.to_thread.run_sync(late)
            except ConnectionRefusedError:
                return True
            return False

        await eventually(closed)
        os.close(place)


@long
async def test_a_filter_uses_a_door_of_its_own():
    async with newer("sway", CONFIG) as comp, proxied(comp, "mail") as path:
        foot = terminal(comp, path)
        (window,) = await wait_window(comp, title="[mail]")
        assert window["app_id"] == "vitrail.mail.foot"
        await foot.stop()


@long
@SUITES
@pytest.mark.parametrize("kind", ["sway", "labwc"])
async def test_nothing_shows_outside_of_frames_there(kind, suite):
    async with newer(kind, CONFIG, suite=suite) as comp, filtered(comp) as it:
        await try_windows(it, leak, hidden=3)
        assert it.ends == []


def decorated(c: Window, w: int, h: int) -> tuple[int, int]:
    """A window that leaves its title bar to the compositor, as Qt's do."""
    surface = c.surface()
    xdg, top = c.toplevel(surface)
    maker = c.bind("zxdg_decoration_manager_v1")
    kind = "zxdg_toplevel_decoration_v1"
    mode = c.make(maker, "get_toplevel_decoration", kind, None, top)
    c.send(mode, "set_mode", 2)
    c.send(surface, "commit")
    c.configured(xdg)
    c.paint(surface, w, h, PAINT)
    c.send(surface, "commit")
    c.roundtrip()
    return surface, xdg


def whole(it, size: tuple[int, int]) -> None:
    """Wait until one whole frame of that size is shown, with content alone in it."""
    w, h = size
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        image = it.settled()
        found = [(f.w, f.h, f.border) for f in frames(image, FRAME)]
        shown = int(mask(image, GUEST).sum())
        if found == [(w, h, 4)] and shown == (w - 8) * (h - 8):
            return
    raise AssertionError(f"no frame of {size}: {found}, {shown} pixels of content")


@pytest.mark.parametrize("suite", HERE_TOO)
async def test_who_is_late_to_become_smaller_keeps_a_whole_frame(suite):
    """sway 1.10 shows it 200 ms later, without the part that is too large."""
    sway = sway_of(suite, CONFIG)
    async with sway as comp, filtered(comp) as it:

        def act(c: Window) -> None:
            surface, xdg = decorated(c, 640, 360)
            whole(it, (648, 368))
            it.order("resize set 400 300")
            whole(it, (400, 300))
            c.configured(xdg)
            c.paint(surface, 392, 292, PAINT)
            c.send(surface, "commit")
            c.roundtrip()
            whole(it, (400, 300))

        await it.client(act)
        assert it.ends == []


@pytest.mark.parametrize("suite", HERE_TOO)
@pytest.mark.parametrize("answers", [True, False])
async def test_who_is_larger_than_its_tile_keeps_a_whole_frame(suite, answers):
    tiling = "default_border none\ndefault_floating_border none\n"
    sway = sway_of(suite, tiling)
    async with sway as comp, filtered(comp) as it:

        def act(c: Window) -> None:
            surface, xdg = decorated(c, 1600, 1200)
            if answers:
                c.configured(xdg)
            c.paint(surface, 1500, 1100, PAINT)
            c.send(surface, "commit")
            c.roundtrip()
            whole(it, SIZE)

        await it.client(act)
        assert it.ends == []


@long
@SUITES
@pytest.mark.parametrize("kind", ["sway", "labwc"])
async def test_the_crop_shows_the_right_part_there(kind, suite):
    async with newer(kind, CONFIG, suite=suite) as comp, filtered(comp) as it:

        def act(c: Window) -> tuple[int, int]:
            image = cropped(it, c)
            return int(mask(image, GUEST).sum()), int(mask(image, 0x0000FF).sum())

        assert await it.client(act) == (200 * 100, 0)


@long
@SUITES
@pytest.mark.parametrize("kind", ["sway", "labwc"])
async def test_damage_in_cropped_content_is_shown(kind, suite):
    """By its surface's damage, which these compositors take for elsewhere."""
    async with newer(kind, CONFIG, suite=suite) as comp, filtered(comp) as it:

        def act(c: Window) -> tuple[int, int]:
            surface, xdg, _ = c.show(400, 300, 0xFFFFFFFF)
            c.send(xdg, "set_window_geometry", 200, 150, 100, 100)
            c.send(surface, "commit")
            c.roundtrip()
            before = int(mask(it.settled(), GUEST).sum())
            c.send(surface, "attach", c.buffer(400, 300, PAINT), 0, 0)
            c.send(surface, "damage", 210, 160, 20, 20)
            c.send(surface, "commit")
            c.roundtrip()
            return before, int(mask(it.settled(), GUEST).sum())

        before, after = await it.client(act)
        assert before == 0
        assert after >= 20 * 20


@long
@SUITES
@pytest.mark.parametrize("program", ["foot", "gtk3-demo", "gtk4-demo", "weston-flower"])
@pytest.mark.parametrize("kind", ["sway", "labwc"])
async def test_applications_live_in_their_frames_there(kind, program, suite):
    async with newer(kind, CONFIG, suite=suite) as comp, filtered(comp) as it:
        child = it.run(program)

        async def framed() -> bool:
            found = frames(await pixels(comp), FRAME)
            return any(f.border >= 4 and f.w > 100 for f in found)

        await eventually(framed)
        assert not has_ended(child.pidfd)
        await child.stop()
        assert [str(e) for e in it.ends] == []
