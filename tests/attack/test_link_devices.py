"""Devices over the link: both ends' real code, and each of them taken over."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.core.limits import devices as device_limits
from broker.core.names import SandboxName
from broker.ipc.devices.messages import DeviceItem, Devices
from broker.ipc.host_rows import (
    ATTACH,
    DETACH,
    DEVICES,
    DeviceAttach,
    DeviceHanded,
    DevicesReply,
)
from broker.ipc.host_viewer import DeviceAttachment
from tests.kit.eventually import eventually
from tests.kit.link.ends import Ends, HoldingViewer
from tests.kit.link.host import obey
from tests.kit.link.roles import LEASE, PaperMachine, host_role, journal
from tests.kit.wayland.compositor import short_directory

A = SandboxName("a")


def item(number, **more):
    values = {
        "number": number,
        "port": f"2-{number}",
        "device_id": "0951:1666",
        "serial": "A1",
        "digest": "d" * 64,
        "interfaces": ["08:06:50"],
        "title": "Kingston DT (storage)",
        "driver": "usb-storage",
        "removable": "removable",
        "state": "plugged",
        "authorized": True,
        "hub": False,
        "sandboxes": ["a"],
        **more,
    }
    return DeviceItem(**values)


class Source:
    """The host's devices, without a kernel."""

    elsewhere = ""
    standby = None

    def __init__(self):
        self.items = [item(1)]
        self.changed = trio.Event()
        self.now, self.log = {}, []
        self.gate = trio.Event()
        self.gate.set()

    async def devices(self):
        await trio.lowlevel.checkpoint()
        return Devices(0, self.items, False, "kernel", [])

    @asynccontextmanager
    async def attached(self, number, lease):
        self.log.append(("asked", number))
        await self.gate.wait()
        if number not in {one.number for one in self.items}:
            raise RefusedError("the device was unplugged or has changed")
        made = self.now[number] = DeviceAttachment(f"dev-{number}", "usbip")
        self.log.append(("attached", number, lease.sandbox))
        try:
            yield made
        finally:
            del self.now[number]
            self.log.append(("back", number))


class Launcher:
    async def __call__(self, sandbox, record, closed, progress, changes=None):
        await trio.lowlevel.checkpoint()
        return PaperMachine()


@asynccontextmanager
async def host_side(tmp_path, ends):
    """A host's end with devices; gives source and role."""
    (tmp_path / "h").mkdir()
    source = Source()
    async with journal(tmp_path / "h") as log:
        remote = ends.host_end(log, lambda: host)
        (tmp_path / "role").mkdir()
        async with (
            host_role(
                tmp_path / "role", Launcher(), viewer=remote, devices=source
            ) as host,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(remote.run)
            yield source, host, remote
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def viewer_side(tmp_path, ends):
    """A viewer's end; gives it."""
    (tmp_path / "v").mkdir()
    async with journal(tmp_path / "v") as log, trio.open_nursery() as nursery:
        remote = ends.viewer_end(log, HoldingViewer())
        await nursery.start(remote.run, await ends.listener())
        yield remote
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def both(tmp_path):
    with short_directory() as base, trio.fail_after(60):
        ends = Ends(base)
        async with (
            viewer_side(tmp_path, ends) as viewer,
            host_side(tmp_path, ends) as (source, host, remote),
        ):
            await eventually(lambda: viewer.state.epoch and viewer.state.epoch.live)
            yield viewer.devices, source, host, remote


async def test_device_of_the_host_is_listed_attached_and_taken_back(tmp_path):
    async with both(tmp_path) as (devices, source, host, _):
        lease = await host.start(A)
        (found,) = (await devices.devices()).devices
        assert found == source.items[0]
        async with devices.attached(found.number, lease) as made:
            assert (made.name, made.backend) == ("dev-1", "usbip")
            assert list(source.now) == [1]
        assert source.log == [("asked", 1), ("attached", 1, "a"), ("back", 1)]


async def test_plug_in_reaches_the_viewer_and_long_lists_come_in_pages(tmp_path):
    async with both(tmp_path) as (devices, source, _, _):
        changed = devices.changed
        source.items = [
            item(n, interfaces=["08:06:50"] * 256) for n in range(1, 3 * 8 + 2)
        ]
        source.changed.set()
        source.changed = trio.Event()
        await changed.wait()
        assert (await devices.devices()).devices == source.items


async def test_unplugged_device_ends_the_attachment_with_its_reason(tmp_path):
    async with both(tmp_path) as (devices, source, host, _):
        lease = await host.start(A)
        async with devices.attached(1, lease) as made:
            source.now[1].end("unplugged")
            await made.ended.wait()
            assert made.reason == "unplugged"


async def test_refusal_of_the_hosts_records_comes_through(tmp_path):
    async with both(tmp_path) as (devices, _, host, _):
        lease = await host.start(A)
        with pytest.raises(RefusedError, match="unplugged or has changed"):
            async with devices.attached(7, lease):
                raise AssertionError
        # The link continues.
        assert (await devices.devices()).devices


async def test_lost_link_takes_every_device_back(tmp_path):
    async with both(tmp_path) as (devices, source, host, remote):
        lease = await host.start(A)
        async with devices.attached(1, lease) as made:
            remote.state.epoch.end("as if the wire were cut")
            await made.ended.wait()
            await eventually(lambda: source.now == {})
        assert ("back", 1) in source.log


async def test_attach_that_is_given_up_before_its_reply_is_taken_back(tmp_path):
    async with both(tmp_path) as (devices, source, host, _):
        lease = await host.start(A)
        source.gate = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def attach():
                    async with devices.attached(1, lease):
                        raise AssertionError

                nursery.start_soon(attach)
                await eventually(lambda: source.log)
                scope.cancel()
        source.gate.set()
        assert source.now == {}
        async with devices.attached(1, lease):
            assert list(source.now) == [1]


@asynccontextmanager
async def viewer_of(tmp_path, handle):
    """A viewer whose host answers its requests with ``handle``."""
    with short_directory() as base, trio.fail_after(60):
        ends = Ends(base)
        async with (
            viewer_side(tmp_path, ends) as viewer,
            trio.open_nursery() as nursery,
        ):
            await ends.dialled(nursery, handle)
            await eventually(lambda: viewer.state.epoch and viewer.state.epoch.live)
            yield viewer
            nursery.cancel_scope.cancel()


async def test_host_that_never_answers_does_not_keep_the_viewer(tmp_path, monkeypatch):
    """Neither a detach nor a cancelled attach waits for it without end."""
    monkeypatch.setattr(device_limits, "DEVICE_DETACH_SECONDS", 0.2)

    async def handle(epoch, row, request, exchange):
        if row is DETACH:
            await trio.sleep_forever()
        if row is ATTACH:
            return DeviceHanded("dev-1", "usbip")
        return await obey(epoch, row, request, exchange)

    async with viewer_of(tmp_path, handle) as viewer, viewer.devices.attached(1, LEASE):
        pass


async def test_host_that_lists_without_end_is_not_followed(tmp_path):
    async def handle(epoch, row, request, exchange):
        if row is DEVICES:
            return DevicesReply([item(1)], more=True)
        return await obey(epoch, row, request, exchange)

    async with viewer_of(tmp_path, handle) as viewer:
        with pytest.raises(UpstreamError, match="endless list"):
            await viewer.devices.devices()


async def test_viewer_that_was_taken_over_names_no_other_lease(tmp_path):
    """Not one that it was not told of, and nothing stays when it goes."""
    with short_directory() as base, trio.fail_after(60):
        ends = Ends(base)
        listener = await ends.listener()
        async with (
            host_side(tmp_path, ends) as (source, host, _),
            trio.open_nursery() as nursery,
        ):
            epoch = await ends.accepted(listener, nursery, obey)
            with pytest.raises(RefusedError, match="no lease"):
                await epoch.call(ATTACH, DeviceAttach(1, "0" * 16))
            assert source.log == []
            lease = await host.start(A)
            await epoch.call(ATTACH, DeviceAttach(1, lease.id))
            epoch.end("it goes")
            await eventually(lambda: source.now == {})
            # The next one cannot take back the devices of another one.
            second = await ends.accepted(listener, nursery, obey)
            await eventually(lambda: second.leases.usable(lease.id))
            await second.call(ATTACH, DeviceAttach(1, lease.id))
            assert list(source.now) == [1]
            nursery.cancel_scope.cancel()
        listener.close()
