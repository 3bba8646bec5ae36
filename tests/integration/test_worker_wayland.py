"""Real windows: foot, waypipe server, worker with its end of the wire, keeper, sway."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager

import pytest
import trio

from broker.ipc import worker as messages
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import desktop, pixels, short_directory, wait_window
from tests.kit.wayland.display import open_descriptors, open_display
from tests.kit.wayland.input import Keyboard
from tests.kit.workers import open_workers

RED = ("foot", "-o", "colors.background=cc0000", "-T", "red", "sleep", "1000")
BLUE = ("foot", "-o", "colors.background=0000cc", "-T", "blue", "sleep", "1000")


@asynccontextmanager
async def a_window(workers, name, base, comp, argv):
    """A sandbox's display with one application in it."""
    async with open_display(workers, name, base / name, comp.display) as display:
        app = display.run(*argv)
        try:
            yield display
        finally:
            await app.stop()


def _share(image, colour):
    near = sum(
        count
        for count, pixel in image.getcolors(1 << 24)
        if all(abs(a - b) < 24 for a, b in zip(pixel, colour, strict=True))
    )
    return near / (image.width * image.height)


async def test_foot_is_on_the_screen_and_its_peer_is_the_keeper():
    async with desktop() as comp, open_workers() as workers:
        with short_directory() as base:
            async with a_window(workers, "red", base, comp, RED) as display:
                (window,) = await wait_window(comp, title="[red] red")
                assert window["pid"] == display.worker.keeper_pid
                await eventually(lambda: _reddish(comp))
                assert display.worker.jail.namespaces
                assert display.worker.jail.seccomp
                counts = await display.worker.statistics()
                assert counts.clients == 1
                await eventually(lambda: _said(display, messages.WaylandOpened(1)))


async def _said(display, message):
    return message in display.said


async def _reddish(comp):
    return _share(await pixels(comp), (0xCC, 0, 0)) > 0.5


async def test_typing_reaches_the_application():
    async with desktop() as comp, open_workers() as workers:
        with short_directory() as base:
            mark = base / "typed"
            # The waypipe server of Debian 12 (0.8.4) may crash when foot gives
            # two of its pools of 512 MiB back at the moment it makes another.
            small = ("-o", "tweak.max-shm-pool-size-mb=0")
            argv = ("foot", *small, "-T", "shell", "sh")
            async with a_window(workers, "shell", base, comp, argv):
                await wait_window(comp, title="shell")

                # wtype may lose its first key, so that one is a space.
                async def typed():
                    await comp.type_text(f"  echo hello > {mark}\n")
                    with trio.move_on_after(2):
                        await eventually(lambda: _content(mark))
                    return await _content(mark)

                assert await eventually(typed) == "hello\n"


async def _content(path):
    return path.read_text() if path.exists() else ""


async def test_an_application_that_ends_closes_its_connection_only():
    async with desktop() as comp, open_workers() as workers:
        with short_directory() as base:
            async with a_window(workers, "red", base, comp, RED) as display:
                await wait_window(comp, title="[red] red")
                second = display.run("foot", "-T", "second", "true")
                assert await second.wait() == 0
                await eventually(lambda: _closed(display, 1))
                assert len(await wait_window(comp, title="[red] red")) == 1
                assert (await display.worker.statistics()).clients == 1


async def _closed(display, count):
    closed = [m for m in display.said if isinstance(m, messages.WaylandClosed)]
    return len(closed) >= count


@pytest.mark.parametrize("victim", ["inner", "keeper"])
async def test_kill_9_ends_the_windows_of_that_sandbox_only(victim):
    before = open_descriptors()
    async with desktop() as comp:
        with short_directory() as base:
            async with open_workers() as workers:
                red = a_window(workers, "red", base, comp, RED)
                blue = a_window(workers, "blue", base, comp, BLUE)
                async with red as display, blue as other:
                    await wait_window(comp, title="[red] red")
                    await wait_window(comp, title="[blue] blue")
                    pid = {
                        "inner": display.worker.inner_pid,
                        "keeper": display.worker.keeper_pid,
                    }[victim]
                    os.kill(pid, signal.SIGKILL)
                    reason = await display.worker.wait_closed()
                    assert reason.endswith("was killed by SIGKILL")
                    assert ("keeper" in reason) == (victim == "keeper")
                    await display.ended.wait()
                    await eventually(lambda: _gone(comp, "red"))
                    assert len(await wait_window(comp, title="[blue] blue")) == 1
                    assert (await other.worker.statistics()).clients == 1
            assert not list(base.glob("*/*.sock"))
    assert open_descriptors() == before


async def _gone(comp, title):
    with trio.move_on_after(0.1):
        await wait_window(comp, title=title)
        return False
    return True


async def test_the_fork_server_may_die_while_windows_stay_and_another_starts():
    async with desktop() as comp, open_workers() as workers:
        with short_directory() as base:
            async with a_window(workers, "red", base, comp, RED) as display:
                await wait_window(comp, title="[red] red")
                first = workers.fork_server_pid
                os.kill(first, signal.SIGKILL)
                async with a_window(workers, "blue", base, comp, BLUE):
                    await wait_window(comp, title="[blue] blue")
                    assert workers.fork_server_pid != first
                    assert len(await wait_window(comp, title="[red] red")) == 1
                    assert (await display.worker.statistics()).clients == 1


async def test_without_a_compositor_the_reason_names_it():
    with short_directory() as base:
        async with open_workers() as workers:
            missing = base / "no-such-compositor"
            async with open_display(workers, "red", base / "red", missing) as display:
                app = display.run("foot", "sh")
                await eventually(lambda: _closed(display, 1))
                await app.stop()
                (closed, *_) = [
                    m for m in display.said if isinstance(m, messages.WaylandClosed)
                ]
                assert f"compositor at {missing}" in closed.reason


async def test_a_record_s_limit_of_clients_holds_at_n_and_n_plus_one():
    async with desktop() as comp, open_workers() as workers:
        with short_directory() as base:
            async with open_display(
                workers, "few", base / "few", comp.display, clients=1
            ) as display:
                first = display.run("foot", "-T", "first", "sleep", "1000")
                await wait_window(comp, title="first")
                second = display.run("foot", "-T", "second", "sleep", "1000")
                assert await second.wait() != 0

                # The worker says why, which may come later than the end itself.
                async def refused():
                    return any(
                        isinstance(m, messages.WaylandClosed)
                        and "more than" in m.reason
                        for m in display.said
                    )

                await eventually(refused)
                await wait_window(comp, title="first")
                await first.stop()


async def test_a_key_is_told_by_the_sandbox_whose_window_had_it():
    """What a rule's gesture= asks for; what an application does by itself is none."""
    async with desktop() as comp, open_workers() as workers:
        with short_directory() as base:
            async with (
                a_window(workers, "red", base, comp, RED) as red,
                a_window(workers, "blue", base, comp, BLUE) as blue,
            ):
                await wait_window(comp, count=2)
                # sway gives the focus to the one that came last.
                focused, other = blue, red
                if not (await wait_window(comp, title="blue"))[0]["focused"]:
                    focused, other = red, blue
                assert acts(red) == acts(blue) == []
                keyboard = Keyboard(comp.display)

                async def told():
                    # Applications hear of the keyboard first, and then ask for it.
                    keyboard.press(45)
                    return acts(focused)

                await eventually(told)
                for _ in range(20):
                    keyboard.press(45)
                keyboard.client.close()
                (first, *more) = acts(focused)
                assert 0 <= first.ago < 5
                assert len(more) < 5, "a few a second are enough"
                assert acts(other) == []


def acts(display):
    return [said for said in display.said if isinstance(said, messages.UserInput)]
