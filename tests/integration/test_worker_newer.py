"""A worker's connections come in by a door of the sandbox's own, where there is one."""

from __future__ import annotations

import pytest

from broker.ipc import worker as messages
from tests.integration.test_worker_wayland import a_window
from tests.kit.eventually import eventually
from tests.kit.vm.newer_suite import newer
from tests.kit.wayland.compositor import pixels, short_directory, wait_window
from tests.kit.wayland.pixels import frames
from tests.kit.wayland.stand import CONFIG
from tests.kit.workers import open_workers

FOOT = ("foot", "-o", "tweak.max-shm-pool-size-mb=0", "--window-size-pixels=400x300")
RULE = """<?xml version="1.0"?><labwc_config><windowRules>
<windowRule sandboxEngine="vitrail" sandboxAppId="vitrail.red"><action name="Maximize"/></windowRule>
</windowRules></labwc_config>"""
FRAME = 0xD01010


@pytest.mark.long
async def test_a_newer_sway_shows_a_window_of_the_jailed_worker():
    async with newer("sway", CONFIG) as comp, open_workers() as workers:
        with short_directory() as base:
            argv = (*FOOT, "-T", "red", "sleep", "1000")
            async with a_window(workers, "red", base, comp, argv) as display:
                (window,) = await wait_window(comp, title="[red] red")
                assert window["app_id"] == "vitrail.red.foot"
                # The keeper made this connection too, by the sandbox's door.
                assert window["pid"] == display.worker.keeper_pid
                assert not list(comp.display.parent.glob("vitrail-*"))


@pytest.mark.long
async def test_a_rule_of_labwc_finds_one_worker_s_windows_and_not_another_s():
    async with newer("labwc", RULE) as comp, open_workers() as workers:
        with short_directory() as base:
            widths = {}
            for name in ("red", "blue"):
                argv = (*FOOT, "-T", name, "sleep", "1000")
                async with a_window(workers, name, base, comp, argv):
                    # On a busy machine it is shown before labwc has made it large.
                    least = 1000 if name == "red" else 300

                    async def framed(least=least):
                        picture = await pixels(comp)
                        return [f.w for f in frames(picture, FRAME) if f.w > least]

                    (widths[name],) = await eventually(framed)
            assert widths["red"] > 1000
            assert widths["blue"] < 500


@pytest.mark.long
async def test_a_compositor_that_is_started_again_gets_a_door_of_its_own():
    """Whatever was learned of the one before, at the same path, is forgotten."""
    async with newer("sway", CONFIG) as comp, open_workers() as workers:
        with short_directory() as base:
            argv = (*FOOT, "-T", "red", "sleep", "1000")
            place = base / "wayland-9"
            place.symlink_to(comp.display)
            async with a_window(
                workers, "red", base, _At(comp, place), argv
            ) as display:
                await wait_window(comp, title="[red] red")
                async with newer("sway", CONFIG) as second:
                    place.unlink()
                    place.symlink_to(second.display)
                    app = display.run(*FOOT, "-T", "again", "sleep", "1000")
                    await wait_window(second, title="[red] again")
                    await app.stop()
                closed = [
                    m for m in display.said if isinstance(m, messages.WaylandClosed)
                ]
                assert all(m.fault is not messages.Fault.OURS for m in closed)


class _At:
    """A compositor under another path."""

    def __init__(self, comp, display):
        self.display = display
        self.environment = comp.environment
