"""``make demo``'s program, as a person starts it: a picture, or a window; no rest."""

from __future__ import annotations

import os

import pytest
import trio
from PIL import Image

from broker.core.paths import find_paths
from tests.kit.brokerctl import brokerctl, home, paths_of, running
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import desktop, wait_window
from tests.kit.world import processes, the_image


def environment(env):
    """A fresh home's, with the image that is there already."""
    return {**env, "XDG_CACHE_HOME": str(find_paths().cache.parent)}


async def nothing_left(env):
    async def gone():
        return not processes(env["HOME"])

    assert await eventually(gone, deadline=60), processes(env["HOME"])
    runtime = paths_of(env).runtime
    # The lock under which a broker starts stays: a waiting starter holds it open.
    directories = {p.name for p in runtime.iterdir()} - {"start.lock"}
    own = {"display"}  # the viewer makes it before it is confined
    assert directories == {"sandboxes", "launch", "sandboxes.d"} | own
    assert not [p for name in directories for p in (runtime / name).iterdir()]


async def test_without_a_screen_it_leaves_a_screenshot_and_nothing_else():
    await the_image()
    with home() as plain:
        env = environment(plain)
        shot = os.path.join(env["HOME"], "shot.png")
        answer = await brokerctl("demo", "--screenshot", shot, env=env, deadline=200)
        assert answer.code == 0, answer.err
        for step in ("boot the guest", "reach the compositor", "wait for the window"):
            assert f"✓ {step}" in answer.err
        assert f"screenshot: {shot}" in answer.err
        with Image.open(shot) as picture:
            colours = picture.convert("RGB").getcolors(1 << 24)
        assert len(colours) > 20, "letters have many shades; an empty screen has one"
        await nothing_left(env)
        audit = await brokerctl("audit", "--kind", "lease.end", env=env)
        assert "demo-" in audit.out


@pytest.mark.slow
async def test_on_a_desktop_it_ends_with_its_window():
    await the_image()
    with home() as plain:
        async with desktop() as comp:
            env = {**environment(plain), "WAYLAND_DISPLAY": str(comp.display)}
            async with running("demo", env=env) as demo:
                await wait_window(comp, deadline=120)
                await comp.command('[app_id="^vitrail.demo-.*foot$"] kill')
                with trio.fail_after(60):
                    assert await demo.wait() == 0
            await nothing_left(env)


@pytest.mark.slow
async def test_beside_a_broker_that_runs_already():
    """The example is found whoever started the broker, and leaves no record."""
    await the_image()
    with home() as plain:
        async with desktop() as comp:
            env = {**environment(plain), "WAYLAND_DISPLAY": str(comp.display)}
            first = await brokerctl("run", "--bwrap", "--", "true", env=env)
            assert first.code == 0, first.err
            async with running("demo", env=env) as demo:
                await wait_window(comp, deadline=120)
                await comp.command('[app_id="^vitrail.demo-.*foot$"] kill')
                with trio.fail_after(60):
                    assert await demo.wait() == 0
            assert (await brokerctl("status", env=env)).code == 0, "the broker stays"
            assert not list(paths_of(env).runtime.rglob("*.toml"))
            await brokerctl("stop", "--broker", env=env)
            await nothing_left(env)
