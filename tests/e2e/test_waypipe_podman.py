"""A viewer whose waypipe clients run in rootless Podman, as in the seed's set-up.

The client is the one in Rust, and only one of two machines uses it: the other
one's stream is decoded by us, and both have their windows on one screen.
"""

from __future__ import annotations

import pytest

from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.wayland.compositor import wait_window, windows
from tests.kit.waypipe.podman import IMAGE, rootless, run, stop_waiting
from tests.kit.world import record

pytestmark = [pytest.mark.machine, pytest.mark.long]
_RECORDS = {"app": record(display="waypipe-client"), "own": record()}


@pytest.mark.timeout(280)
async def test_windows_by_a_container_and_by_us_and_nothing_left():
    async with rootless(rust=True) as settings, two(_RECORDS, start=False) as t:
        del settings["XDG_RUNTIME_DIR"]  # the viewer has one
        t.viewer.environ.update(settings)
        config = t.viewer.paths.config[0] / "waypipe.toml"
        config.write_text(f'podman_image = "{IMAGE}"\n')
        await t.viewer.start()
        await t.host.start()
        await t.up()
        await t.viewer.run("app", "foot", "-T", "contained", "sleep", "1000")
        await wait_window(t.viewer.comp, title="contained", deadline=60)
        await t.viewer.run("own", "foot", "-T", "decoded", "sleep", "1000")
        await wait_window(t.viewer.comp, title="decoded", deadline=60)
        names = {window["name"] for window in windows(await t.viewer.comp.tree())}
        status = await t.viewer.status()
        app, own = sorted({stream.sandbox for stream in status.streams})
        assert (app.split("-")[0], own.split("-")[0]) == ("app", "own")
        assert names == {f"[{app}] contained", f"[{own}] decoded"}
        jails = {
            (p.sandbox, p.jail) for p in status.processes if p.role == "waypipe-client"
        }
        assert jails == {(app, "podman")}
        assert {s.sandbox for s in status.streams if s.work} == {own}
        await t.viewer.shutdown()

        async def none() -> bool:
            # podman goes on removing ended containers.
            return run(t.viewer.environ, "ps", "-aq") == ""

        assert await eventually(none, deadline=60)
        stop_waiting(t.viewer.environ)
