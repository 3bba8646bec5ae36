"""A micro VM of another machine whose flows the viewer's rules decide."""

from __future__ import annotations

import errno
import json
import shutil
import socket
from functools import partial

import pytest
import trio

from broker.core.errors import RefusedError
from broker.core.lease import Opening
from broker.core.services import LINK_PORTS, NETWORK, PORTS
from broker.host.network.addresses import RESOLVER
from broker.viewer.network.network_flows import NetworkFlows
from broker.viewer.role import ViewerRole
from tests.e2e.test_network_rules import VM_LOOK
from tests.kit.link.two_brokers import two
from tests.kit.world import record

RULE = "vitrail.Network +192.0.2.1 @anyvm @net allow port=9 protocol=udp\n"


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_a_machine_of_the_host_has_its_flows_decided_by_the_viewer():
    if shutil.which("passt") is None:
        pytest.skip("passt is not installed")
    records = {
        "net": record("disposable", network="rules", launch="boot_deadline = 300")
    }
    async with two(records, start=False) as t:
        t.viewer.write_rules(RULE, "50-net")
        await t.viewer.start()
        await t.host.start()
        await t.up()
        code, out = await t.viewer.output("net", "python3", "-c", VM_LOOK)
        assert code == 0, out
        said = json.loads(out.splitlines()[-1])
        assert RESOLVER in said["resolver"].split()
        assert said["denied"] == errno.ECONNREFUSED
        assert said["name"] == "gaierror"
        opened = await t.viewer.wait_event("stream.opened", argument="+192.0.2.1")
        assert opened["detail"]["rule"].endswith("50-net.policy:1")
        denied = await t.viewer.wait_event("decision", verdict="deny", service=NETWORK)
        assert denied["sandbox"].startswith("net")


async def test_a_sandboxs_filter_asks_once():
    """Attack: a taken host opens two at once, and each holds permits and flows."""

    class Log:
        def check_share(self, _):
            pass

    role = ViewerRole.__new__(ViewerRole)
    lease = type("Lease", (), {"id": "0" * 16, "record": "net"})()
    role._guests, role._log = {lease.id: object()}, Log()
    role.network = NetworkFlows(decider=None, log=None, record=lambda _: None)
    said = trio.Event()

    async def waits(_):
        """The answer to the first is on its way."""
        said.set()
        await trio.sleep_forever()

    async def opened(number, **more):
        mine, theirs = socket.socketpair()
        with theirs:
            theirs.shutdown(socket.SHUT_WR)
            await role.stream_opened(
                Opening(lease, NETWORK, number, ""),
                mine,
                task_status=trio.TASK_STATUS_IGNORED,
                **more,
            )

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(opened, 1, answer=waits))
            await said.wait()
            with pytest.raises(RefusedError, match="already has a frame filter"):
                await opened(2)
            nursery.cancel_scope.cancel()
        await opened(3)  # the place is free again


def test_no_guest_opens_a_filters_stream():
    assert NETWORK in LINK_PORTS
    assert NETWORK not in PORTS
