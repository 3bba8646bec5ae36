"""A viewer whose waypipe clients run in rootless Podman, as in the seed's set-up."""

from __future__ import annotations

import pytest

from tests.kit.compositor import wait_window
from tests.kit.podman import IMAGE, rootless, run, stop_waiting
from tests.kit.two import two
from tests.kit.world import record

pytestmark = pytest.mark.machine


async def test_a_window_through_a_container_and_nothing_left():
    async with (
        rootless() as settings,
        two({"app": record(display="waypipe-client")}, start=False) as t,
    ):
        del settings["XDG_RUNTIME_DIR"]  # the viewer has one
        t.viewer.environ.update(settings)
        config = t.viewer.paths.config[0] / "waypipe.toml"
        config.write_text(f'podman_image = "{IMAGE}"\n')
        await t.viewer.start()
        await t.host.start()
        await t.up()
        await t.viewer.run("app", "foot", "-T", "contained", "sleep", "1000")
        await wait_window(t.viewer.comp, title="contained")
        jails = {
            p.role: p.jail
            for p in (await t.viewer.status()).processes
            if p.role == "waypipe-client"
        }
        assert jails == {"waypipe-client": "podman"}
        await t.viewer.shutdown()
        assert run(t.viewer.environ, "ps", "-aq") == ""
        stop_waiting(t.viewer.environ)
