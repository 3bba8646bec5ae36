"""Devices and sandboxes that try to keep others from theirs.

A device describes itself, with the number of its interfaces; a sandbox chooses
when it connects; both may take their time.
"""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.lease import Opening
from broker.core.limits import devices as limits
from broker.core.services import SECURITY_KEY
from broker.host.devices import devices_client as device_client
from broker.ipc.devices import messages
from broker.ipc.devices.table import DeviceTable, item_of
from broker.root.devices_service import _fitting
from broker.viewer.security_keys import security_keys
from broker.viewer.security_keys.shared_key import SharedKey
from tests.broker.root.test_sysfs import plug
from tests.integration.test_device_service import number, service
from tests.kit.eventually import eventually
from tests.kit.rulebook import VAULT, WORK, rulebook
from tests.kit.usb.samples import descriptors, device

EVERY_CLASS = tuple((number, 0, 0) for number in range(250))


async def test_a_title_that_names_every_class_hides_no_other_device(monkeypatch):
    """The broker refused the whole list then, and its attachments ended."""
    async with service(monkeypatch) as place:
        plug(place.root, "2-2", raw=descriptors(*EVERY_CLASS))
        await place.look()
        client = await place.connect()
        found = (await client.devices()).devices
        assert [item.port for item in found] == ["2-1", "2-2"]
        assert "more kinds" in found[1].title
        assert client.ended_ones == []


def test_many_devices_with_many_interfaces_hide_no_other():
    """A hub may be a program; a packet has a largest size."""
    table = DeviceTable()
    table.seen(device(port="1-1"), 0.0)
    for port in range(2, 128):
        raw = descriptors(*EVERY_CLASS)
        table.seen(device(port=f"1-{port}", raw=raw, product="x" * 250), 0.0)
    items = [item_of(made, ["*"]) for made in table.plugs()]
    listed, problems = _fitting(items)
    assert "1-1" in {item.port for item in listed}
    assert len(listed) < len(items)
    assert len(problems) <= 16
    reply = messages.Devices(1, listed, True, "udev", problems)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(0)
        ours.send(messages.encode(reply))


@pytest.mark.parametrize("how", ["cancelled", "too late"])
async def test_a_device_whose_attachment_was_given_up_is_taken_back(monkeypatch, how):
    """Its permission is over, and the guest would have it without one."""
    async with service(monkeypatch) as place:
        client = await place.connect()
        found = await number(client)
        send = client._send
        if how == "too late":
            monkeypatch.setattr(device_client.limits, "DEVICE_ATTACH_SECONDS", 0.2)
        sent = trio.Event()

        async def slow(data, fds):
            await send(data, fds)
            if fds:
                client._waiting_for = dict(client._waiting)
                client._waiting.clear()  # it answers when the task is gone
                sent.set()

        monkeypatch.setattr(client, "_send", slow)
        here, there = socket.socketpair()
        with here, there:
            async with trio.open_nursery() as nursery:

                async def attach():
                    with pytest.raises(UpstreamError, match="did not answer"):
                        await client.export(found, "work", "lease", here)

                nursery.start_soon(attach)
                await sent.wait()
                if how == "cancelled":
                    nursery.cancel_scope.cancel()
            monkeypatch.setattr(client, "_send", send)
            assert await eventually(lambda: place.kernel.released == ["2-1"])
        assert place.kernel.exported == [("2-1", socket.AF_UNIX)]


async def test_a_sandbox_has_few_processes_for_the_security_key(monkeypatch):
    """Each is a Python process, and a sandbox may open hundreds of streams."""
    begun, shared = [], SharedKey()

    async def carry(opening, *_, task_status):
        begun.append(opening.lease.sandbox)
        task_status.started()
        await trio.sleep_forever()

    monkeypatch.setattr(security_keys, "_carry", carry)
    rules = "vitrail.SecurityKey * @anyvm @adminvm ask\n"
    async with rulebook(rules) as b, AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())

        async def connect(lease, stream, inside=nursery):
            opening = Opening(lease, SECURITY_KEY, stream, "cid 20")
            words = (opening, None, b.decider, shared, None)
            await inside.start(security_keys.carry, *words)

        for stream in range(limits.SECURITY_KEY_CONNECTIONS):
            await connect(WORK, stream)
        with pytest.raises((RefusedError, ExceptionGroup)):
            async with trio.open_nursery() as inner:
                await connect(WORK, 99, inner)
        await connect(VAULT, 1)
        assert begun == ["work"] * limits.SECURITY_KEY_CONNECTIONS + ["vault"]
        nursery.cancel_scope.cancel()
    assert shared._places == {}
