"""A port of a micro VM's loopback is the user's, by ``brokerctl forward``."""

from __future__ import annotations

import pytest
import trio

from broker.ipc.control.api import RunRequest
from broker.ipc.control.methods import RUN
from tests.integration.test_ports import forwarded, rule
from tests.kit.eventually import eventually
from tests.kit.world import record, world

PORT, BULK = 8080, 300_000
SERVER = f"""
import socket
listener = socket.create_server(("127.0.0.1", {PORT}))
print("listening", flush=True)
while True:
    sock, _ = listener.accept()
    with sock:
        while data := sock.recv(1 << 16):
            sock.sendall(data.upper())
"""


async def echoed(address, data):
    """The answer, by a client that closes when it has it: no half-close."""
    async with await trio.open_tcp_stream(*address) as stream:
        said = bytearray()
        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, data)
                while len(said) < len(data):
                    said += await stream.receive_some()
        return bytes(said)


@pytest.mark.long
async def test_a_port_of_a_micro_vm_is_the_users():
    """Its guest's kernel, its vsock, and the ends of both directions."""
    async with world({"vault": record("persistent")}, start=False) as w:
        w.write_rules(rule(PORT, "@adminvm vault allow"))
        await w.start()
        listening = trio.Event()

        async def take(item):
            if item.output:
                listening.set()

        async def serve():
            request = RunRequest(
                record="vault", argv=["python3", "-c", SERVER], window=False, wait=True
            )
            async with w.client() as client:
                await client.call(RUN, request, take)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with trio.fail_after(300):
                await listening.wait()
            async with forwarded(w, PORT) as (local, _):
                assert await echoed(local, b"hello") == b"HELLO"
                assert await echoed(local, b"x" * BULK) == b"X" * BULK

                async def closed():
                    found = w.events("stream.closed", service="vitrail.Tcp")
                    return found if len(found) == 2 else None

                ends = await eventually(closed, deadline=60)
                assert max(one["bytes_to_sandbox"] for one in ends) == BULK
            await w.stop("vault", grace=0)
            nursery.cancel_scope.cancel()
