"""The set-up from which Vitrail started, as a whole.

A viewer's machine with sway and a sound server; this machine as the host that forwards; an application's machine whose
windows and sound arrive at the viewer, each by vsock.
"""

from __future__ import annotations

import json
import shlex
from contextlib import asynccontextmanager

import pytest

from broker.cli.link.pairing import pinned
from broker.net.link.keys import PinnedPeer
from broker.net.link.wire_types import Role
from broker.net.link_service.key_store import LinkStore
from tests.e2e.test_sound import TONE
from tests.e2e.test_three_machines_hybrid import LINK, RUN, Three
from tests.kit.eventually import eventually
from tests.kit.link.three_machines import VIEWER, Guest, lab
from tests.kit.link.two_brokers import make_side
from tests.kit.link.viewer_vm import (
    MEMORY_MIB,
    SPEC,
    heard,
    start_sound,
)
from tests.kit.vm.brokers import (
    CTL,
    PATIENCE,
    SCREEN,
    explained,
    pin,
    screenshot,
    set_up,
    start,
    start_sway,
    status,
    until_there,
)
from tests.kit.wayland.compositor import edges, windows
from tests.kit.world import record, the_image

GREEN = (0, 158, 115)
RECORD = record("persistent", top='audio = "allow"\n')
TREE = "swaymsg -t get_tree"


class Seed(Three):
    """The viewer's machine with sound, before its broker starts."""

    async def furnish(self):
        own = await set_up(self.viewer, LINK, RECORD, record_name="work")
        pinned.pin(LinkStore(self.host.paths), PinnedPeer("screen", Role.VIEWER, own))
        mine = LinkStore(self.host.paths).identity().public
        await pin(self.viewer, PinnedPeer("desk", Role.HOST, mine))
        await start_sway(self.viewer)
        await start(self.viewer, "viewer")

    async def shows(self, title):
        """A window comes up, in a machine that runs already."""
        # Not waited for by 'run': the steps of a start have deadlines of real machines.
        await self.viewer.run(f"{CTL} exec -d work -- foot -T {title} cat", env=SCREEN)
        await until_there(self.viewer, f"{TREE} | grep -q {title}", env=SCREEN)

    async def framed(self, title):
        """Wait until the window has the sandbox's frame on the viewer's screen."""

        async def look():
            tree = json.loads(await self.viewer.run(TREE, env=SCREEN))
            found = [w for w in windows(tree) if w["name"] == f"[work] {title}"]
            picture = (await screenshot(self.viewer)).convert("RGB")
            return bool(found) and edges(picture, found[0], 4) == {GREEN}

        assert await eventually(look, deadline=PATIENCE)


@asynccontextmanager
async def as_a_whole():
    """Viewer, host and the application's machine, which runs nothing yet."""
    await the_image()
    async with lab(spec=SPEC) as made:
        place = f"hybrid:{made.base}/viewer.vsock:6499"
        host = make_side(made.base / "h", None, "host", ["--connect", place])
        host.write_record("work", RECORD)
        viewer = Guest("viewer", VIEWER, memory=MEMORY_MIB)
        await made.connect(viewer)
        await made.boot(viewer)
        seed = Seed(made, host, viewer)
        try:
            async with explained(viewer):
                await seed.furnish()
                await host.start()
                await host.wait_link(deadline=PATIENCE)
                yield seed
        finally:
            log = host.paths.state / "broker.log"
            if log.exists():
                print(log.read_text())
                await host.shutdown()


async def test_windows_and_sound_in_a_viewers_machine():
    async with as_a_whole() as seed:
        viewer = seed.viewer
        await viewer.run(f"{RUN} --no-window -d work -- cat", env=SCREEN)
        await seed.shows("notes")
        await seed.framed("notes")
        roles = {p["role"] for p in (await status(viewer))["processes"]}
        assert roles >= {"keeper", "worker"}

        await start_sound(viewer)
        play = shlex.join(["python3", "-c", TONE, "700", "3"])
        await viewer.run(f"{RUN} -q --no-window work -- {play}", env=SCREEN)
        played = await heard(viewer)
        assert abs(played.hertz - 700) < 5, (played.hertz, played.seconds)

        # The end of the application's machine is that of its windows.
        await viewer.run(f"{CTL} stop work", env=SCREEN)
        await until_there(viewer, f"! {TREE} | grep -q notes", env=SCREEN)
        assert not (await seed.host.status()).leases


pytestmark = [pytest.mark.long, pytest.mark.alone, pytest.mark.timeout(1800)]
