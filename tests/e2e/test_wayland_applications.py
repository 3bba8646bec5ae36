"""Real applications in bubblewrap, through waypipe and the filter, by their pixels.

Each is driven with a pointer (and keys, on sway) on sway, weston and KWin.
Checked: its frame is whole at rest and in every picture while it is
resized, nothing but the empty desktop is outside of frames, and menus,
tooltips and popovers have separate frames.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from broker.jail.wayland.listing import windows_of
from tests.kit.eventually import eventually
from tests.kit.wayland.apps import boxed
from tests.kit.wayland.compositor import desktop, pixels
from tests.kit.wayland.pixels import mask, outside
from tests.kit.wayland.stand import CONFIG, FRAME, Stand
from tests.kit.wayland.world import (
    KINDS,
    NEWER,
    FilteredDesktop,
    closed,
    opened,
    resized,
    started,
    world,
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is missing"),
]


@dataclass(frozen=True)
class App:
    """``menus`` are spots that open a popup when clicked, ``hovers`` when hovered.

    Relative to the outer frame; negative ones count from the right or lower side.
    """

    argv: tuple[str, ...]
    menus: tuple[tuple[int, int], ...] = ()
    hovers: tuple[tuple[int, int], ...] = ()
    strokes: tuple[tuple[int, int, int, int], ...] = ()
    resizes: bool = True
    kinds: tuple[str, ...] = tuple(KINDS)

    @property
    def name(self) -> str:
        return self.argv[0] if len(self.argv) == 1 else " ".join(self.argv[:2])


def app(*argv: str, **more) -> App:
    return App(argv, **more)


EVERYWHERE = (*KINDS, *NEWER)

APPS = [
    # weston's clients: shapes, subsurfaces, viewports, input
    app("weston-terminal", kinds=EVERYWHERE),
    app("weston-flower", resizes=False),
    app("weston-smoke", strokes=((40, 40, 120, 120),)),
    app("weston-clickdot", strokes=((100, 100, 200, 150),)),
    app("weston-eventdemo"),
    app("weston-dnd", strokes=((60, 70, 180, 160),), kinds=EVERYWHERE),
    app("weston-image", "/usr/share/weston/terminal.png"),
    app("weston-resizor", resizes=False),
    app("weston-scaler", resizes=False),
    app("weston-cliptest", resizes=False),
    app("weston-stacking"),
    app("weston-transformed", resizes=False),  # crashes when the pointer leaves
    app("weston-subsurfaces", kinds=EVERYWHERE),
    app("weston-simple-egl", resizes=False),
    # They give up when a buffer comes back late, as it does through waypipe on sway.
    app("weston-simple-shm", resizes=False, kinds=("weston", "kwin")),
    app("weston-simple-damage", resizes=False, kinds=("weston", "kwin")),
    # It binds a version whose events it has no handlers for.
    app("weston-presentation-shm", resizes=False, kinds=("sway", "weston")),
    # toolkits
    app("gtk3-demo", kinds=EVERYWHERE),
    # As large as the screen, they hang below weston's panel.
    app("gtk3-widget-factory", menus=((430, 270), (50, 312)), resizes=False, kinds=("sway", "kwin")),
    # weston puts the second window over the first one's edge.
    app("gtk3-demo", "--run=dialog", kinds=("sway", "kwin", *NEWER)),
    app("gtk3-demo", "--run=menus"),
    app("gtk3-demo", "--run=dnd", strokes=((60, 70, 160, 90),)),
    app("gtk4-demo", menus=((-76, 28),), kinds=EVERYWHERE),
    app("gtk4-widget-factory", menus=((500, 262), (50, 340)), resizes=False, kinds=("sway", "kwin")),
    app("gtk4-demo", "--run=dialog"),
    app("featherpad", menus=((30, 16), (70, 16)), kinds=("sway", "kwin", *NEWER)),
    # weston has no decorations, so Qt draws a title bar.
    app("featherpad", menus=((28, 43), (65, 43)), kinds=("weston",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("program", "kind"),
    [pytest.param(a, k, id=f"{a.name}-{k}") for a in APPS for k in a.kinds],
)
async def test_an_application_stays_in_its_frame(program, kind):
    async with world(kind) as there, boxed(there.it, *program.argv) as running:
        frame = await running.framed()
        await there.look()
        await there.keep("rest")
        for n, at in enumerate(program.menus):
            await opened(there, running, frame, at, press=True)
            await there.keep(f"menu-{n}")
            await closed(there, running, frame)
        for at in program.hovers:
            await opened(there, running, frame, at, press=False)
        for x0, y0, x1, y1 in program.strokes:
            await there.move(frame.x + x0, frame.y + y0)
            await there.press(True)
            for n in range(1, 9):
                await there.move(
                    frame.x + x0 + (x1 - x0) * n // 8,
                    frame.y + y0 + (y1 - y0) * n // 8,
                )
                await there.look()
            await there.press(False)
        if program.resizes:
            assert await resized(there, await running.framed()) == 12
        await there.look()
        await there.keep("end")
        assert running.child.popen.poll() is None, running.said()
        assert [str(e) for e in there.it.ends] == []


# -- browsers, video, X11, fractional scale ----------------------------------------------

_PAGE = """<html><title>0</title><body style="margin:0;background:#000">
<video id=v src="clip.webm" width=1280 height=720 autoplay loop muted></video>
<script>setInterval(()=>{let q=v.getVideoPlaybackQuality();
document.title='frames '+q.totalVideoFrames+' dropped '+q.droppedVideoFrames+' end'},500)</script>"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A directory for the sandbox: four seconds of 360p30, and a page that plays them."""
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg is missing")
    place = tmp_path_factory.mktemp("shared")
    (place / "page.html").write_text(_PAGE)
    words = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=640x360:rate=30",
        "-t",
        "4",
        "-c:v",
        "libvpx",
        "-deadline",
        "realtime",
        "-cpu-used",
        "8",
        "-b:v",
        "3M",
    ]
    subprocess.run([*words, str(place / "clip.webm")], check=True, timeout=200)
    return place


def titles(it: Stand) -> list[str]:
    """What the sandbox's windows are called."""
    return [info.title for info in windows_of(it.sandbox)]


async def playing(there: FilteredDesktop, running) -> None:
    """Pictures while a video plays: they change, and nothing is outside of frames."""
    frame = await running.framed()
    before = await pixels(there.it.comp)

    async def moved() -> bool:
        await there.look()
        image = await pixels(there.it.comp)
        box = (frame.x, frame.y, frame.x + frame.w, frame.y + frame.h)
        return image.crop(box).tobytes() != before.crop(box).tobytes()

    await eventually(moved)
    for _ in range(5):
        await there.look()
    await there.keep("plays")


@pytest.mark.parametrize("kind", EVERYWHERE)
async def test_mpv_plays_in_its_frame(kind, shared):
    words = [
        "mpv",
        "--no-config",
        "--vo=wlshm",
        "--ao=null",
        "--loop",
        "/shared/clip.webm",
    ]
    if not shutil.which("mpv"):
        pytest.skip("mpv is missing")
    async with world(kind) as there, boxed(there.it, *words, shared=shared) as running:
        await playing(there, running)
        # sway's floating windows are never maximised.
        if not kind.endswith("sway"):
            before = await running.framed()
            await there.click(640, 400)
            await there.press(True)
            await there.press(False)

            async def larger() -> bool:
                # Fullscreen is faked: maximised, and its frame is whole.
                return any(f.h > before.h for f in await there.look())

            await eventually(larger)
        assert [str(e) for e in there.it.ends] == []


def browser(name: str) -> list[str]:
    if not shutil.which(name):
        pytest.skip(f"{name} is missing")
    if name == "firefox-esr":
        return [name, "--no-remote", "--new-instance", "/shared/page.html"]
    return [
        name, "--no-sandbox", "--ozone-platform=wayland", "--disable-gpu", "--no-first-run",
        "--autoplay-policy=no-user-gesture-required", "--user-data-dir=/tmp/profile",
        "--window-size=1000,640", "file:///shared/page.html",
    ]  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", EVERYWHERE)
@pytest.mark.parametrize("name", ["firefox-esr", "chromium"])
async def test_a_browser_plays_video_and_opens_its_menu(name, kind, shared):
    async with (
        world(kind) as there,
        boxed(there.it, *browser(name), shared=shared) as running,
    ):
        await running.framed(least=300, deadline=60)

        async def plays() -> bool:
            return any("frames " in t and "frames 0" not in t for t in titles(there.it))

        await eventually(plays, deadline=60)
        frame = await running.framed(least=300)
        await there.look()
        await there.keep("plays")
        await opened(there, running, frame, (-30, 62), press=True)
        await there.keep("menu")
        await closed(there, running, frame)
        if kind != "sway":  # where the crop of sway 1.7 shows another part
            assert await resized(there, await running.framed(least=300)) == 12
        assert [str(e) for e in there.it.ends] == []


X11 = (
    "Xwayland :7 -ac & i=0; until DISPLAY=:7 xlogo -geometry 300x200+100+300 & "
    "sleep 1; kill -0 $! 2>/dev/null || [ $i = 20 ]; do i=$((i+1)); done; "
    "DISPLAY=:7 xeyes -geometry 200x200+400+100 & wait"
)


async def eyes_follow(there, running) -> None:
    """What runs ``X11`` is framed, and looks at the pointer."""
    frame = await running.framed()
    white = (255, 255, 255)

    async def eyes() -> bool:
        image = await pixels(there.it.comp)
        box = (frame.x + 404, frame.y + 104, frame.x + 604, frame.y + 304)
        found = {c: n for n, c in image.crop(box).getcolors(1 << 20)}
        return found.get(white, 0) > 2000

    await eventually(eyes)
    await there.look()
    # Input goes in with the right coordinates.
    before = (await pixels(there.it.comp)).tobytes()
    await there.move(frame.x + 300, frame.y + 600)
    await there.move(frame.x + 310, frame.y + 610)

    async def follow() -> bool:
        return (await pixels(there.it.comp)).tobytes() != before

    await eventually(follow)
    await there.look()
    await there.keep("follows")
    assert [str(e) for e in there.it.ends] == []


# As large as the screen, it hangs below weston's panel.
@pytest.mark.parametrize("kind", ["sway", "kwin", *NEWER])
async def test_x11_programs_in_a_rootful_xwayland(kind):
    if not shutil.which("Xwayland") or not shutil.which("xeyes"):
        pytest.skip("Xwayland or x11-apps is missing")
    async with world(kind) as there, boxed(there.it, "sh", "-c", X11) as running:
        await eyes_follow(there, running)


@pytest.mark.parametrize("scale", ["1.25", "1.5", "2"])
@pytest.mark.parametrize("turn", ["normal", "90"])
async def test_a_terminal_at_other_scales_and_turns(scale, turn):
    """Every pixel inside the frame's outline is frame or content, nothing outside."""
    config = CONFIG + f"output HEADLESS-1 scale {scale} transform {turn}\n"
    async with desktop(config_extra=config) as comp, started(comp, None) as there:
        words = (
            "foot",
            "-o",
            "colors.background=00ff00",
            "--window-size-pixels=600x400",
        )
        async with boxed(there.it, *words, "sleep", "60") as running:
            frame = await running.framed()
            await there.look(slack=1)
            width = 4 * float(scale)
            assert width - 2 <= frame.border <= width + 1, frame
            for wide, high in ((301, 203), (333, 257), (512, 311)):
                await comp.command(f"resize set {wide} {high}")

                async def fits(was=frame) -> bool:
                    await there.look(slack=1)
                    return (await running.framed())[2:4] != was[2:4]

                await eventually(fits)
                frame = await running.framed()
            # No more than what an edge blends has the guest's colour outside.
            green = mask(await pixels(comp), 0x00FF00)
            inner = (frame.x + 3, frame.y + 3, frame.w - 6, frame.h - 6)
            assert green.any()
            assert outside(green, [inner]) == 0
            assert [str(e) for e in there.it.ends] == []


async def test_a_window_over_two_outputs_of_different_scales():
    config = CONFIG + "output HEADLESS-2 resolution 1280x800 position 1280 0 scale 2\n"
    async with desktop(config_extra=config) as comp:
        await comp.command("create_output")
        await comp.command("output HEADLESS-2 position 1280 0 scale 2")
        async with started(comp, None) as there:
            words = (
                "foot",
                "-o",
                "colors.background=00ff00",
                "--window-size-pixels=600x400",
            )
            async with boxed(there.it, *words, "sleep", "60") as running:
                await running.framed()
                for x in (100, 900, 1400):
                    await comp.command(f"move position {x} 100")

                    async def shown() -> bool:
                        # Cut by the screens' edge it has no whole frame, but
                        # no pixel of the guest is beside a red one.
                        image = await pixels(comp)
                        here, green = mask(image, FRAME), mask(image, 0x00FF00)
                        if not green.any():
                            return False
                        ys, xs = np.nonzero(here)
                        box = (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)
                        return bool(outside(green, [box]) == 0)

                    await eventually(shown)
                assert [str(e) for e in there.it.ends] == []
