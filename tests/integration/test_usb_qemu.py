"""QEMU's ``usb-host`` by QMP: descriptors in, refusals in our words, nothing left."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.errors import RefusedError, UpstreamError
from broker.helpers.process.spawn import spawn
from broker.host.devices.qemu import QemuDevice
from broker.host.vmm.qmp import open_qmp
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections
from tests.kit.needs import requires
from tests.kit.wayland.compositor import short_directory

pytestmark = requires("qemu-system-x86_64")


@asynccontextmanager
async def machine(*devices):
    """A machine without a disk, and its monitor.

    It runs: a paused one keeps descriptors that were taken back.
    """
    with short_directory() as place:
        path = place / "qmp"
        child = spawn(
            [
                *(
                    "qemu-system-x86_64",
                    "-M",
                    "q35,usb=off",
                    "-accel",
                    "tcg",
                    "-m",
                    "64",
                ),
                *("-nodefaults", "-no-user-config", "-nographic", *devices),
                *("-qmp", f"unix:{path},server=on,wait=off"),
            ]
        )
        try:
            await eventually(lambda: takes_connections(path), deadline=60)
            async with trio.open_nursery() as nursery:
                qmp = await open_qmp(path)

                async def run():
                    with pytest.raises(UpstreamError):
                        await qmp.run()

                nursery.start_soon(run)
                yield qmp
                nursery.cancel_scope.cancel()
        finally:
            await child.kill_and_wait()


async def left(qmp):
    """Descriptors and devices that QEMU has of us."""
    names = await qmp.execute("qom-list", {"path": "/machine/peripheral"})
    devices = [item["name"] for item in names if item["name"].startswith("vitrail")]
    # QEMU 7.2 keeps an empty set of a descriptor that usb-host could not use.
    sets = await qmp.execute("query-fdsets")
    return [fd for one in sets for fd in one["fds"]], devices


async def test_machine_without_usb_is_refused_with_what_helps():
    async with machine() as qmp:
        node = os.open("/dev/null", os.O_RDWR)
        try:
            with pytest.raises(RefusedError, match="no USB controller") as caught:
                await QemuDevice(qmp, "dev-1").attach(node)
        finally:
            os.close(node)
        assert "vhci-hcd" in caught.value.hint
        assert await left(qmp) == ([], [])


async def test_node_that_is_no_device_is_refused_and_leaves_nothing():
    async with machine("-device", "qemu-xhci,id=xhci") as qmp:
        node = os.open("/dev/null", os.O_RDWR)
        try:
            with pytest.raises(UpstreamError):
                await QemuDevice(qmp, "dev-1").attach(node)
        finally:
            os.close(node)
        assert await left(qmp) == ([], [])


async def test_device_is_pulled_out_and_awaited():
    """With a device of QEMU's own in place of one of this machine."""
    async with machine("-device", "qemu-xhci,id=xhci") as qmp:
        device = QemuDevice(qmp, "dev-2")
        words = {"driver": "usb-kbd", "id": device._id}
        await qmp.execute("device_add", words)
        assert await device.present()
        await device.detach()
        assert not await device.present()
        await device.detach()


async def test_qemu_that_dies_ends_the_attach():
    async with machine("-device", "qemu-xhci,id=xhci") as qmp:
        node = os.open("/dev/null", os.O_RDWR)
        try:
            await qmp.close()
            with pytest.raises(UpstreamError):
                await QemuDevice(qmp, "dev-1").attach(node)
        finally:
            os.close(node)
