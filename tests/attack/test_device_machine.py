"""USB is the machine's: services of several users, killed ones, and their restored state."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

import pytest
import trio

from broker.core.errors import RefusedError
from broker.ipc.in_thread import in_thread
from broker.root import devices_service as service_module
from broker.root import usbip
from broker.root.claims import Claims
from broker.root.handover import Reserve
from broker.root.strict import StrictMode
from tests.attack.test_device_service import Bus, controller, drive
from tests.broker.root.test_sysfs import plug
from tests.integration.test_device_service import _RECORDS, number, service
from tests.kit.eventually import eventually
from tests.kit.threads import no_threads

STRICT = f"strict = true\n{_RECORDS}"


@pytest.mark.parametrize("ways", [("node", "usbip"), ("usbip", "node")])
async def test_two_services_hand_out_no_device_twice(monkeypatch, tmp_path, ways):
    """Each looks at its table; of a node the kernel tells the other nothing."""
    monkeypatch.setattr(service_module, "open_node", lambda held: os.dup(0))

    async def ask(client, way, here):
        words = (await number(client), "work", "lease")
        return await (
            client.node(*words) if way == "node" else client.export(*words, here)
        )

    async with (
        service(monkeypatch, shared=tmp_path) as ada,
        service(monkeypatch, shared=tmp_path, root=ada.root) as bob,
    ):
        here, there = socket.socketpair()
        with here, there:
            await ask(await ada.connect(), ways[0], here)
            other = await bob.connect()
            with pytest.raises(RefusedError, match="a sandbox of another user has it"):
                await ask(other, ways[1], here)
        # The last stand-in of the kernel is both services'.
        assert len(bob.kernel.exported) == (ways[0] == "usbip")
        # It is not said to be in use for good.
        (item,) = (await other.devices()).devices
        assert item.state == "plugged"


async def test_device_that_is_back_is_another_service_s_to_give(monkeypatch, tmp_path):
    async with (
        service(monkeypatch, shared=tmp_path) as ada,
        service(monkeypatch, shared=tmp_path, root=ada.root) as bob,
    ):
        first, second = await ada.connect(), await bob.connect()
        for client in (first, second, first):
            here, there = socket.socketpair()
            with here, there:
                made = await client.export(await number(client), "work", "lease", here)
                await client.detach(made.attachment)


def test_start_leaves_what_another_service_has_handed_over(monkeypatch, tmp_path):
    (tmp_path / "sysfs").mkdir()
    bus = Bus(monkeypatch, tmp_path / "sysfs")
    drive(plug(bus.root), "usbip-host")
    (bus.root / "2-1/usbip_sockfd").write_text("7")
    Claims(tmp_path).take("2-1")
    trio.run(lambda: Claims(tmp_path).recover(authorize=True, root=bus.root))
    assert (bus.root / "2-1/usbip_sockfd").read_text() == "7"
    assert bus.written == []


def test_strict_lasts_until_the_last_service_ends(tmp_path):
    file = controller(tmp_path / "sysfs")
    ada = StrictMode(tmp_path / "run", tmp_path / "sysfs")
    bob = StrictMode(tmp_path / "run", tmp_path / "sysfs")
    ada.set(wanted=True)
    bob.set(wanted=True)
    later = controller(tmp_path / "sysfs", "usb3", "2")
    assert not bob.is_on()
    bob.follow()
    assert (file.read_text(), later.read_text()) == ("0", "0")
    ada.set(wanted=False)
    assert (file.read_text(), later.read_text()) == ("0", "0")
    assert bob.is_on()
    bob.set(wanted=False)
    assert (file.read_text(), later.read_text()) == ("1", "2")


def test_strict_of_a_killed_service_is_no_first_value(tmp_path):
    """It wrote 0; a next start that remembered that would leave USB dead."""
    file = controller(tmp_path / "sysfs")
    killed = StrictMode(tmp_path / "run", tmp_path / "sysfs")
    killed.set(wanted=True)
    os.close(killed._held)
    after = StrictMode(tmp_path / "run", tmp_path / "sysfs")
    after.set(wanted=True)
    after.set(wanted=False)
    assert file.read_text() == "1"


def test_killed_service_leaves_usb_neither_dead_nor_without_drivers(tmp_path):
    """``ExecStopPost=`` restores, and leaves what another service needs."""
    devices = tmp_path / "bus/devices"
    file, switch = controller(devices), tmp_path / "bus/drivers_autoprobe"
    switch.write_text("1")
    killed = StrictMode(tmp_path / "run", devices)
    killed.set(wanted=True)
    with killed.no_driver_binds(lambda _: False):
        noted = (tmp_path / "run/autoprobe").read_bytes()
    (tmp_path / "run/autoprobe").write_bytes(noted)
    switch.write_text("0")
    other = StrictMode(tmp_path / "run", devices)
    other.set(wanted=True)
    os.close(killed._held)
    StrictMode(tmp_path / "run", devices).recover()
    assert (file.read_text(), switch.read_text()) == ("0", "1")
    os.close(other._held)
    StrictMode(tmp_path / "run", devices).recover()
    assert file.read_text() == "1"


def test_full_run_does_not_leave_the_machine_without_drivers(tmp_path, monkeypatch):
    """Each device that was plugged in later had none, until the machine restarted."""
    devices = tmp_path / "bus/devices"
    controller(devices)
    switch = tmp_path / "bus/drivers_autoprobe"
    switch.write_text("1")
    mode = StrictMode(tmp_path / "run", devices)
    mode.set(wanted=True)
    write = Path.write_text

    def full(path, text, **more):
        if path == tmp_path / "run/autoprobe":
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, text, **more)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="space"), mode.no_driver_binds(lambda _: False):
        raise AssertionError
    assert switch.read_text() == "1"
    monkeypatch.undo()
    with mode.no_driver_binds(lambda _: False):
        assert switch.read_text() == "0"
    assert switch.read_text() == "1"
    mode.set(wanted=False)


async def test_strict_by_reload_is_done(monkeypatch, tmp_path):
    async with service(monkeypatch, shared=tmp_path) as place:
        file = controller(place.root)
        client = await place.connect()
        assert not (await client.devices()).strict
        (place.folder / "devices.toml").write_text(STRICT)
        place.service.reload()
        assert file.read_text() == "0"
        assert (await client.devices()).strict
        file.write_text("1")  # somebody else did it
        assert not (await client.devices()).strict
        (place.folder / "devices.toml").write_text(_RECORDS)
        place.service.reload()
        assert file.read_text() == "1"


async def test_device_that_does_not_come_back_is_not_said_to_be_back(
    monkeypatch, tmp_path
):
    async with service(monkeypatch, shared=tmp_path) as place:
        client = await place.connect()
        asked, gate = [], trio.Event()

        async def release(held, *, authorize):
            asked.append(held.port)
            if len(asked) > 1:
                await gate.wait()
            return len(asked) > 1

        monkeypatch.setattr(usbip, "release", release)
        here, there = socket.socketpair()
        with here, there:
            item = await number(client)
            made = await client.export(item, "work", "lease", here)
            with pytest.raises(RefusedError, match="will try again"):
                await client.detach(made.attachment)
            told = await client.devices()
            assert told.problems == [
                "port 2-1: the previous sandbox has not released the device yet"
            ]
            assert Claims(tmp_path).is_taken("2-1")
            with pytest.raises(RefusedError, match="has not released the device"):
                await client.export(item, "work", "lease", here)
            gate.set()
            await eventually(lambda: not Claims(tmp_path).is_taken("2-1"))
            assert (await client.devices()).problems == []


async def test_device_is_taken_back_when_there_is_room_for_a_thread(
    monkeypatch, tmp_path
):
    async with service(monkeypatch, shared=tmp_path) as place:
        client = await place.connect()

        async def release(_held, *, authorize):
            return await in_thread(bool, authorize)

        monkeypatch.setattr(usbip, "release", release)
        here, there = socket.socketpair()
        with here, there:
            item = await number(client)
            made = await client.export(item, "work", "lease", here)
            with no_threads(), pytest.raises(RefusedError, match="will try again"):
                await client.detach(made.attachment)
            assert Claims(tmp_path).is_taken("2-1")
            await eventually(lambda: not Claims(tmp_path).is_taken("2-1"))
            assert (await client.devices()).problems == []


async def test_device_is_taken_back_where_descriptors_are_few(monkeypatch, tmp_path):
    (tmp_path / "sysfs").mkdir()
    bus = Bus(monkeypatch, tmp_path / "sysfs")
    drive(plug(bus.root), "usbip-host")
    (bus.root / "2-1/usbip_sockfd").write_text("7")
    held = service_module.SysfsDevice("2-1", bus.root)
    reserve = Reserve()
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with reserve.used():
            usbip.hang_up(held)
        assert (bus.root / "2-1/usbip_sockfd").exists()
        said = usbip.in_use(held)
    finally:
        for fd in taken:
            os.close(fd)
    assert said, "nobody could look"
    assert (bus.root / "2-1/usbip_sockfd").read_text() == "-1"
    assert not usbip._is_back(held), "it is at usbip-host"
    drive(bus.root / "2-1", "usb")
    assert usbip._is_back(held)
    held.close()


@pytest.mark.parametrize("driver", ["usbip-host", "usb"])
async def test_device_at_usbip_host_is_not_back_whatever_was_written_before_the_look(
    monkeypatch, tmp_path, driver
):
    (tmp_path / "sysfs").mkdir()
    bus = Bus(monkeypatch, tmp_path / "sysfs")
    drive(plug(bus.root), "usbip-host")
    (bus.root / "2-1/usbip_sockfd").write_text("7")

    def put(path, text):
        if path.name == "unbind" and driver == "usb":
            drive(bus.root / "2-1", "usb")

    monkeypatch.setattr(usbip, "_put", put)
    held = service_module.SysfsDevice("2-1", bus.root)
    assert await usbip.release(held, authorize=True) is (driver == "usb")
    held.close()
