"""One host's broker, three kinds of machines: by CID, by hybrid socket, a container.

Each kind has separate listeners, and all of them are there at once.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

import pytest
import trio

from broker.core.services import PORTS
from broker.ipc.control.api import LeaseRequest
from broker.ipc.control.methods import LEASE_ACQUIRE
from broker.net.peers.credentials import can_ask_pid_namespaces
from tests.kit.container import container
from tests.kit.world import world

EXTERNAL = """\
class = "persistent"
display = "allow"
[launch]
kind = "external"
[peer]
{}
"""


@pytest.fixture(autouse=True)
def _kernel():
    if not can_ask_pid_namespaces():
        pytest.skip("this kernel cannot tell a process's pid namespace (Linux 6.11)")
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError:
        pytest.skip("this kernel has no AF_VSOCK (modprobe vsock)")


def taken(port):
    """Whether a process listens on that AF_VSOCK port of this machine."""
    with socket.socket(socket.AF_VSOCK) as sock, suppress(OSError):
        sock.bind((socket.VMADDR_CID_ANY, port))
        return False
    return True


async def refused(path):
    """Knock there, as who has no machine, and hear nothing but the end."""
    stream = await trio.open_unix_socket(str(path))
    async with stream:
        with trio.fail_after(60):
            assert await stream.receive_some() == b""


async def test_all_three_kinds_of_doors_are_open_at_once():
    async with world(image=False) as w:
        hybrid = w.base / "hybrid"
        hybrid.mkdir(mode=0o700)
        w.write_record("kernel", EXTERNAL.format("cid = 20"))
        w.write_record("fire", EXTERNAL.format(f'hybrid = "{hybrid}/vm.vsock"'))
        if taken(PORTS["vitrail.Display"]):
            pytest.skip("another broker on this machine has AF_VSOCK's ports")
        async with container(w, "box"), w.client() as client:
            us = os.getpid()
            for name, where in (
                ("kernel", {"cid": 20}),
                ("fire", {"hybrid": f"{hybrid}/vm.vsock"}),
            ):
                await client.call(
                    LEASE_ACQUIRE, LeaseRequest(record=name, leader=us, **where)
                )
            held = {x.sandbox: x.peer for x in (await w.status()).leases}
            assert held == {
                "kernel": "cid 20",
                "fire": f"hybrid:{hybrid}/vm.vsock",
                "box": f"container at {w.base}/sockets-box",
            }
            for port in PORTS.values():
                assert taken(port), "AF_VSOCK"
                assert (hybrid / f"vm.vsock_{port}").is_socket()
            # The hybrid door knows us as the machine's VMM, the container's does not.
            vmm = await trio.open_unix_socket(f"{hybrid}/vm.vsock_6501")
            async with vmm:
                await vmm.send_all(b"no waypipe's header")
                opened = await w.wait_event("decision", 60, sandbox="fire")
                assert opened["service"] == "vitrail.Display"
            await refused(w.base / "sockets-box/vitrail.Display")
            event = await w.wait_event("stream.refused", 60, sandbox="box")
            assert "not in this container" in event["reason"]
            # And no window noticed.
            (stream,) = [s for s in (await w.status()).streams if s.sandbox == "box"]
            assert stream.service == "vitrail.Display"
