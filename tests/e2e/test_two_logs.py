"""One connection in the logs of two machines: the same number, bytes and seconds."""

from __future__ import annotations

import json

from broker.ipc.control.api import LeaseReleaseRequest
from broker.ipc.control.methods import LEASE_RELEASE
from tests.kit.brokerctl import brokerctl
from tests.kit.container import INSIDE, RECORD, container
from tests.kit.link.two_brokers import two
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window

pytestmark = PID_NAMESPACES

# waypipe ends with its stream; the container has another process.
STAYS = INSIDE.replace("exec ", "") + "; exec sleep 1000"


async def test_a_stream_that_is_cut_reads_the_same_in_both_logs(tmp_path):
    async with two({"red": RECORD.format("/nowhere")}, image=False) as t:
        async with container(t.host, "red", wait=False, inside=STAYS) as box:
            await wait_window(t.viewer.comp, title="red")
            async with t.host.client() as client:
                await client.call(LEASE_RELEASE, LeaseReleaseRequest(id=box.lease.id))
            host = await t.host.wait_event("stream.closed", sandbox="red")
            viewer = await t.viewer.wait_event("stream.closed", sandbox="red")
        number, _, epoch = host["link"].partition("@")
        assert viewer["link"] == host["link"]
        assert (int(number) > 0, len(epoch)) == (True, 32)
        assert host["bytes_from_sandbox"] > 1000, "it has drawn a window"
        for key in ("bytes_from_sandbox", "bytes_to_sandbox"):
            assert host[key] == viewer[key], (host, viewer)
        assert abs(host["seconds"] - viewer["seconds"]) < 1

        export = tmp_path / "host.jsonl"
        wrote = await brokerctl("audit", "export", str(export), env=t.host.environ)
        assert wrote.code == 0, wrote.err
        shown = await brokerctl(
            *("audit", "trace", host["link"], "--with", str(export), "--json"),
            env=t.viewer.environ,
        )
        assert shown.code == 0, shown.err
        found = [json.loads(line) for line in shown.out.splitlines()]
        assert {(e["broker"], e["kind"]) for e in found} == {
            ("host", "stream.opened"),
            ("host", "stream.closed"),
            ("viewer", "decision"),
            ("viewer", "stream.opened"),
            ("viewer", "stream.closed"),
        }


async def test_a_refusal_of_the_viewer_has_its_number_in_both_logs():
    async with two({"red": RECORD.format("/nowhere")}, image=False) as t:
        t.viewer.write_rules("vitrail.Display * red @adminvm deny\n", "30-none")
        await t.viewer.wait_event("policy.loaded", rules=1)
        async with container(t.host, "red", wait=False, inside=STAYS):
            host = await t.host.wait_event("stream.refused", sandbox="red")
            viewer = await t.viewer.wait_event("stream.refused", sandbox="red")
        assert host["reason"] == "the viewer's policy denies the stream"
        assert host["link"] == viewer["link"] != ""
