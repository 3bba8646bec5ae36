"""Real applications through the filter, on a real sway, driven by real input."""

from __future__ import annotations

import os

import pytest
import trio

from broker.core.streams.wayland_rules import WindowRules
from broker.helpers.process.spawn import has_ended, spawn
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels, wait_window
from tests.kit.wayland.copying import copying
from tests.kit.wayland.input import Keyboard, Pointer
from tests.kit.wayland.pixels import frames
from tests.kit.wayland.stand import CONFIG, FRAME, SIZE, filtered, stand

_TILED = CONFIG.replace("floating enable", "floating disable")
_A, _B, _ENTER = 30, 48, 28


async def framed(it) -> bool:
    """Whether the first window's frame is whole and exactly where sway has it."""
    image = await pixels(it.comp)
    rect = (await wait_window(it.comp))[0]["rect"]
    want = (rect["x"], rect["y"], rect["width"], rect["height"])
    return want in [f[:4] for f in frames(image, FRAME)]


async def test_a_terminal_is_framed_named_and_typed_into(tmp_path):
    async with stand() as it:
        with Keyboard(it.comp.display) as keys:
            out = it.comp.display.with_name("typed")
            child = it.run(
                "foot", "sh", "-c", f"read word; echo got-$word > {out}; sleep 60"
            )
            (window,) = await wait_window(it.comp, title="[work] foot")
            assert window["app_id"] == "vitrail.work.foot"
            await eventually(lambda: framed(it))
            for code in (_A, _B, _ENTER):
                await trio.to_thread.run_sync(keys.press, code)

            async def typed() -> bool:
                return out.exists() and out.read_text() == "got-ab\n"

            await eventually(typed)
            await child.stop()
        assert it.ends == []


@pytest.mark.parametrize(
    "program",
    [
        "gtk3-demo", "gtk4-demo", "weston-terminal", "weston-flower", "weston-clickdot",
        "weston-subsurfaces", "weston-presentation-shm",
    ],
)  # fmt: skip
async def test_an_application_lives_in_its_frame_and_dies_without_a_trace(program):
    async with stand() as it:
        child = it.run(program)
        await wait_window(it.comp, title="[work]")
        await eventually(lambda: framed(it))
        assert not has_ended(child.pidfd)
        await child.stop()
        assert [str(e) for e in it.ends] == []


async def test_tiling_resizes_with_the_border_always_exact():
    async with stand(config=_TILED) as it:
        child = it.run("foot", "sh")
        await wait_window(it.comp)
        for width in (300, 900, 500, 1100):
            await it.comp.command("floating enable")
            await it.comp.command(f"resize set {width} 400, move position 20 20")

            async def fits(width=width) -> bool:
                (window,) = await wait_window(it.comp)
                # foot rounds to its cells, so the width is near the requested one.
                near = abs(window["rect"]["width"] - width) < 40
                if not near:
                    # sway takes a late picture of the former size for the wish.
                    await it.comp.command(
                        f"resize set {width} 400, move position 20 20"
                    )
                return near and await framed(it)

            await eventually(fits)
        await child.stop()


async def test_fullscreen_keeps_the_frame():
    async with stand(config=_TILED) as it:
        child = it.run("foot", "sh")
        await wait_window(it.comp)
        await it.comp.command("fullscreen enable")

        async def whole() -> bool:
            return (0, 0, *SIZE) in [
                f[:4] for f in frames(await pixels(it.comp), FRAME)
            ]

        await eventually(whole)
        await child.stop()


async def test_a_menu_opens_in_a_frame_where_it_was_clicked():
    async with stand() as it:
        with Pointer(it.comp.display, SIZE) as mouse:
            await trio.to_thread.run_sync(mouse.move, 5, 5)
            child = it.run("gtk4-demo", "--run=menu")
            await wait_window(it.comp, title="[work]")
            before = len(it.sandbox.filters)
            assert before == 1
            (core,) = it.sandbox.filters
            (window, *_) = await wait_window(it.comp, title="[work]")
            rect = window["rect"]
            await eventually(lambda: framed(it))
            # The hamburger button of GTK 4's header bar, right of the middle.
            for x in range(
                rect["x"] + rect["width"] - 90, rect["x"] + rect["width"] - 30, 12
            ):
                await trio.to_thread.run_sync(mouse.click, x, rect["y"] + 30)
                with trio.move_on_after(1):
                    while not core.sandbox.totals["popups"]:
                        await trio.sleep(0.05)
                    break
            del core
            await child.stop()


async def test_copy_and_paste_work_inside_and_cross_nowhere(tmp_path):
    content = tmp_path / "content"
    content.write_text("inside the sandbox")
    async with (
        stand() as it,
        filtered(it.comp, WindowRules("other", color=0x1010D0)) as other,
    ):
        with Keyboard(it.comp.display) as keys:
            window = it.run("foot", "sleep", "60")
            await wait_window(it.comp)
            await trio.to_thread.run_sync(keys.press, _A)
            copier = spawn(
                copying(str(content)),
                env={**it.comp.environment, "WAYLAND_DISPLAY": str(it.path)},
            )

            async def paste(display) -> bytes:
                read, write = os.pipe2(os.O_CLOEXEC)
                child = spawn(
                    ["wl-paste", "--no-newline"],
                    env={**it.comp.environment, "WAYLAND_DISPLAY": str(display)},
                    stdout=write,
                    stderr=write,
                )
                os.close(write)
                async with trio.lowlevel.FdStream(read) as stream:
                    data = b""
                    with trio.move_on_after(5):
                        async for piece in stream:
                            data += piece
                await child.stop()
                return data

            async def pasted() -> bool:
                return await paste(it.path) == b"inside the sandbox"

            await eventually(pasted)
            assert b"inside" not in await paste(it.comp.display)
            assert b"inside" not in await paste(other.path)
            await copier.stop()
            await window.stop()


async def test_twelve_terminals_are_tiled_and_stay():
    """Each declares 512 MiB, and twice that while it is resized."""
    async with stand(config=_TILED) as it:
        children = [it.run("foot", "sleep", "600") for _ in range(12)]
        await wait_window(it.comp, title="[work] foot", count=12)
        assert not any(has_ended(child.pidfd) for child in children)
        for child in children:
            await child.stop()
        assert [str(e) for e in it.ends] == []
