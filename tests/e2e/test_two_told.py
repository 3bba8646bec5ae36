"""What is wrong on the host is told on the viewer; a viewer that is away fills no log."""

from __future__ import annotations

import trio

from broker.ipc.control.api import RunRequest
from broker.ipc.control.methods import RUN
from tests.kit.container import RECORD, container
from tests.kit.eventually import eventually
from tests.kit.link.two_brokers import two
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import record


async def test_a_mistake_in_the_hosts_record_is_told_to_who_runs_and_in_the_status():
    async with two(image=False) as t:
        good = record()
        t.host.write_record("app", good + "\nmemory = 5\n")
        told = []

        async def take(item):
            told.append("" if item.progress is None else item.progress.detail)

        async def run():
            async with t.viewer.client() as client:
                await client.call(RUN, RunRequest(record="app", argv=["foot"]), take)

        async def is_told():
            return any(
                text.startswith(
                    "the last good version of the host's record is in force"
                )
                and "app.toml:" in text
                for text in told
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            assert await eventually(is_told), told
            nursery.cancel_scope.cancel()

        async def shown():
            other = (await t.viewer.link()).other
            if other is None:
                return None
            return [w for w in other.warnings if w.startswith("mistake in a record")]

        (warning,) = await eventually(shown)
        assert "app.toml:" in warning
        t.host.write_record("app", good)

        async def mended():
            return await shown() == []

        assert await eventually(mended)


AGAIN = (
    "while :; do [ -S /tmp/broker/vitrail.Display ] && "
    "waypipe --compress none --no-gpu -s /tmp/broker/vitrail.Display server -- {}; "
    "echo >> /tmp/broker/tries; done"
)


@PID_NAMESPACES
async def test_streams_without_a_viewer_are_one_event_and_a_count():
    async with (
        two({"red": RECORD.format("/nowhere")}, image=False) as t,
        container(t.host, "red", wait=False, inside=AGAIN) as box,
    ):
        await wait_window(t.viewer.comp, title="red")
        await t.viewer.kill()
        away = {"sandbox": "red", "reason": "no viewer is connected"}
        await t.host.wait_event("stream.refused", **away)
        tries = box.directory / "tries"
        before = tries.stat().st_size

        async def tried():
            return tries.stat().st_size >= before + 5

        await eventually(tried)
        assert len(t.host.events("stream.refused", **away)) == 1, t.host.events()
        await t.viewer.start()
        await t.up()
        rest = await t.host.wait_event(
            "stream.refused",
            sandbox="red",
            reason="no viewer was connected, or it was silent",
        )
        assert rest["count"] >= 4
        assert len(t.host.events("stream.refused", **away)) == 1
