"""Host and viewer as two processes: a machine's window on the other's screen."""

from __future__ import annotations

import pytest
import trio

from broker.core.errors import RefusedError
from tests.kit.container import DIRECT, container
from tests.kit.container import RECORD as CONTAINER
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.wayland.compositor import pixels, wait_frames, wait_window, windows
from tests.kit.world import record


async def test_a_window_of_the_hosts_machine_on_the_viewers_screen():
    async with two() as t:
        last, items = await t.viewer.run(
            "app", "foot", "-T", "shell", "-o", "colors.background=cc0000", "sh"
        )
        sandbox = last.started.sandbox
        title = f"[{sandbox}] shell"
        await wait_window(t.viewer.comp, title=title)
        # What takes time on the host is told to who waits at the viewer.
        told = [i.progress.detail for i in items if i.progress is not None]
        assert "sent the request to desk" in told

        async def red():
            picture = await pixels(t.viewer.comp)
            return picture.getpixel((640, 400)) == (0xCC, 0, 0)

        assert await eventually(red)
        green = (0x00, 0x9E, 0x73)
        await wait_frames(t.viewer.comp, {title: {green}})

        # Keys typed on the viewer's screen act in the host's machine.
        async def typed():
            text = ' printf "\\033]2;typed-in-%s\\007" "$(uname -n)"\n'
            await t.viewer.comp.type_text(text)
            with trio.move_on_after(2):
                title = f"typed-in-{sandbox}"
                return await wait_window(t.viewer.comp, title=title)

        assert await eventually(typed)

        host, viewer = await t.host.status(), await t.viewer.status()
        assert (host.role, viewer.role) == ("host", "viewer")
        assert [s.name for s in host.sandboxes] == [sandbox]
        assert [s.name for s in viewer.sandboxes] == [sandbox]
        assert {s.state for s in host.sandboxes + viewer.sandboxes} == {"running"}
        assert host.leases[0].id == viewer.leases[0].id
        assert {s.service for s in host.streams} == {"vitrail.Agent", "vitrail.Display"}
        assert {s.service for s in viewer.streams} == {s.service for s in host.streams}
        assert host.link.epoch == viewer.link.epoch != ""
        assert (host.link.name, viewer.link.name) == ("screen", "desk")
        assert host.link.other.leases == viewer.link.other.leases == 1
        # The host parses nothing: it has no worker, no waypipe, no compositor.
        roles = {p.role for p in host.processes}
        assert {"broker", "pump", "QEMU"} <= roles
        assert not roles & {"fork server", "keeper", "worker"}
        seen = {p.role for p in viewer.processes}
        assert {"broker", "pump", "worker"} <= seen
        assert "QEMU" not in seen

        async def left():
            await t.viewer.comp.type_text(" exit 7\n")
            with trio.move_on_after(2):
                return await t.viewer.wait_event("program.exited", sandbox=sandbox)

        exited = await eventually(left)
        assert exited["code"] == 7
        ended = await t.host.wait_event("lease.end", sandbox=sandbox)
        assert (
            "requested by viewer screen: its last program has ended" in ended["reason"]
        )

        async def empty():
            return not windows(await t.viewer.comp.tree())

        assert await eventually(empty)

        async def forgotten():
            sandboxes = (await t.viewer.status()).sandboxes
            return not sandboxes and (await t.viewer.link()).leases == 0

        assert await eventually(forgotten)


async def test_the_viewer_chooses_within_the_hosts_records():
    """A record that only the viewer has starts nothing, whatever it says."""
    async with two({"app": record()}, image=False) as t:
        t.viewer.write_record("mine", record())
        with pytest.raises(RefusedError, match="this host has no valid record 'mine'"):
            await t.viewer.run("mine", "foot")
        refused = await t.host.wait_event("lease.refused", sandbox="mine")
        assert refused["peer"] == "viewer screen"
        assert (await t.host.status()).sandboxes == []


async def test_wayland_s_own_descriptors_do_not_cross():
    """A container of the host that wants to speak Wayland itself is told why not."""
    records = {"red": CONTAINER.format("/nowhere")}
    async with (
        two(records, image=False) as t,
        container(t.host, "red", inside=DIRECT, wait=False),
    ):
        refused = await t.host.wait_event("stream.refused", sandbox="red")
        assert "on another machine" in refused["reason"]
        assert not windows(await t.viewer.comp.tree())
