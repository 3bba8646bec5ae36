"""A compositor that starts after the broker: after a reboot the host's link starts it."""

from __future__ import annotations

import os

import pytest

from broker.cli.headless_sway import open_headless_sway
from broker.cli.run.start import end_broker, ensure_broker
from broker.core.paths import find_paths
from broker.ipc.control.api import Nothing
from broker.ipc.control.client import open_client
from broker.ipc.control.methods import STATUS
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import short_directory, wait_frames, wait_window

pytestmark = [PID_NAMESPACES, pytest.mark.timeout(120)]
PURPLE = (0xCC, 0x79, 0xA7)

# Each try is a connection of the box's worker, which began before the compositor.
PERSISTENT = "until foot -T early sleep 1000; do sleep 0.2; done"


async def test_windows_come_as_soon_as_the_compositor_is_there():
    """Without WAYLAND_DISPLAY, and on a socket of another name than the default one."""
    with short_directory() as base:
        run = base / "run"
        run.mkdir(mode=0o700)
        env = {
            **{k: v for k, v in os.environ.items() if k != "WAYLAND_DISPLAY"},
            "XDG_RUNTIME_DIR": str(run),
            "XDG_STATE_HOME": str(base / "state"),
            "XDG_CONFIG_HOME": str(base / "config"),
            "XDG_CONFIG_DIRS": str(base / "none"),
            "XDG_DATA_HOME": str(base / "data"),
        }
        paths = find_paths(env)
        assert await ensure_broker(paths, environ=env)
        async with open_client(paths.control) as client:

            async def warnings():
                found = (await client.call(STATUS, Nothing())).warnings
                return [one for one in found if "compositor" in one]

            try:
                (warned,) = await warnings()
                assert "is used once it answers" in warned
                early = ("run", "-q", "--bwrap", "--", "sh", "-c", PERSISTENT)
                async with running(*early, env=env):

                    async def keeps():
                        processes = (await client.call(STATUS, Nothing())).processes
                        return [one for one in processes if one.role == "keeper"]

                    await eventually(keeps)
                    async with await open_headless_sway(run) as comp:
                        assert comp.display.name == "wayland-1"
                        await wait_window(comp, title="early")
                        late = ("run", "-q", "--bwrap", "--", "foot", "-T", "late")
                        async with running(*late, "sleep", "1000", env=env):
                            await wait_window(comp, title="late")
                            assert await warnings() == []
            finally:
                await brokerctl("stop", "--all", env=env)
                await end_broker(client)


async def test_a_box_that_was_started_by_ssh_does_not_spoil_the_desktop():
    """Its command starts the broker without a compositor; the next one has a window."""
    with short_directory() as base:
        run = base / "run"
        run.mkdir(mode=0o700)
        records = base / "config/vitrail/sandboxes.d"
        records.mkdir(parents=True)
        (records / "toolbox.toml").write_text(
            'class = "disposable"\ndisplay = "allow"\n[label]\ncolour = "purple"\n'
            '[launch]\nkind = "shared-box"\n'
        )
        env = {
            **{k: v for k, v in os.environ.items() if k != "WAYLAND_DISPLAY"},
            "XDG_RUNTIME_DIR": str(run),
            "XDG_STATE_HOME": str(base / "state"),
            "XDG_CONFIG_HOME": str(base / "config"),
            "XDG_CONFIG_DIRS": str(base / "none"),
            "XDG_DATA_HOME": str(base / "data"),
            "HOME": str(base),
        }
        box = ("launcher", "exec", "toolbox")
        headless = await brokerctl(*box, "uname", "-n", env=env)
        assert (headless.code, headless.err) == (0, ""), headless
        paths = find_paths(env)
        async with open_client(paths.control) as client:
            try:
                async with await open_headless_sway(run) as comp:
                    desktop = {**env, "WAYLAND_DISPLAY": comp.display.name}
                    async with running(*box, "sh", "-c", PERSISTENT, env=desktop):
                        await wait_window(comp, title="early")
                        (begin,) = (await client.call(STATUS, Nothing())).sandboxes
                        assert begin.name.startswith("toolbox-")
                        title = f"[{begin.name}: label, not boundary] early"
                        await wait_frames(comp, {title: {PURPLE}})
            finally:
                await end_broker(client)
