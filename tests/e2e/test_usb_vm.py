"""USB devices from real hot-plug in one VM to a real sibling, and back.

A VM in the host role gets devices from its QEMU; its udev events go through
``vitrail-devices`` and what may leave it; the kernels carry a stick by usbip
over vsock into another VM.
"""

from __future__ import annotations

import hashlib
import os

import pytest
import trio

from broker.core.errors import SetupError
from tests.kit.usb.vms import eventually, usb_machines
from tests.kit.vm.machines import vm_tools
from tests.kit.vm.tinyguest import ordinary_user

_UNFINISHED = pytest.mark.skipif(
    not os.environ.get("VITRAIL_UNFINISHED"),
    reason="has not passed yet; VITRAIL_UNFINISHED=1 runs it",
)
pytestmark = [_UNFINISHED, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

_RECORDS = """\
[[device]]
name = "sticks"
sandboxes = ["app"]
with-interface = { op = "match-all", values = ["08:*:*"] }
"""
_DAEMON = "PYTHONPATH=/srv python3 -m broker.programs.devices --user vit --records /run/devices.toml"
_SHIM = "setsid python3 /srv/shims/vitrail_devices.py >/tmp/shim.log 2>&1 &"


@pytest.fixture(scope="module", autouse=True)
def _machine():
    ordinary_user()
    try:
        trio.run(vm_tools)
    except SetupError as error:
        pytest.skip(f"needs a micro VM: {error}")


async def start_service(host, source: str) -> None:
    await host.guest.write("/run/devices.toml", _RECORDS, user="root")
    await host.guest.run(
        f"setsid {_DAEMON} --source {source} >/tmp/daemon.log 2>&1 & echo $! >/run/daemon.pid",
        user="root",
    )
    await eventually(host.guest, "grep ready /tmp/daemon.log", deadline=240)


async def in_port(host, port: str):
    """The item of a port, once it is listed."""
    with trio.fail_after(20):
        while True:
            for item in (await host.devices())["devices"]:
                if item["port"] == port:
                    return item


async def not_in_port(host, port: str) -> None:
    with trio.fail_after(20):
        while any(i["port"] == port for i in (await host.devices())["devices"]):
            pass


async def descriptors_of(host) -> int:
    return int(
        await host.guest.run("ls /proc/$(cat /run/daemon.pid)/fd | wc -l", user="root")
    )


async def test_stick_travels_to_a_sibling_and_back(tmp_path):
    image = tmp_path / "stick.img"
    image.write_bytes(os.urandom(16 << 20))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    async with usb_machines() as (host, app, _lab):
        await start_service(host, "kernel")
        await app.run(_SHIM, user="root")

        # Seen, described, bounded by the records.
        await host.stick("s1", 1, image)
        stick = await in_port(host, "2-1")
        assert stick["device_id"] == "46f4:0001"
        assert stick["interfaces"] == ["08:06:50"]
        assert stick["sandboxes"] == ["app"]
        await host.plug("usb-kbd", "k1", 2)
        keyboard = await in_port(host, "1-2")
        assert keyboard["interfaces"] == ["03:01:01"]
        assert keyboard["sandboxes"] == []
        await host.hold("1-2", "keyboard")
        refused = await host.said("keyboard", "refused")
        assert "records let no such device" in refused["message"]

        # Attached: the sibling reads the same bytes.
        await host.hold("2-1", "first")
        print(await host.said("first", "attached"))
        await eventually(app, "test -b /dev/sda")
        read = await app.run("sha256sum /dev/sda", user="root")
        assert read.split()[0] == digest
        # And this machine has no disk of it, at any time.
        assert "usbip-host" in (await in_port(host, "2-1"))["driver"]

        # Detached and attached again.
        await host.signal("first", "TERM")
        print(await host.said("first", "detached"))
        await eventually(app, "! test -e /dev/sda")
        assert (await in_port(host, "2-1"))["state"] == "plugged"
        await host.hold("2-1", "second")
        await host.said("second", "attached")
        await eventually(app, "test -b /dev/sda")

        # Pulled out while it is read.
        await app.run(
            "setsid dd if=/dev/sda of=/dev/null bs=4k iflag=direct >/tmp/dd.log 2>&1 &",
            user="root",
        )
        await host.unplug_stick("s1")
        ended = await host.said("second", "ended")
        assert "unplugged" in ended["reason"]
        await eventually(app, "! test -e /dev/sda")
        await eventually(app, "grep -q 'rror' /tmp/dd.log")
        await not_in_port(host, "2-1")

        # Back in the same port, another device: what was decided about the
        # first is not for this one.
        await host.stick("s2", 1, image, serial="B2")
        swapped = await in_port(host, "2-1")
        assert swapped["number"] != stick["number"]
        await host.hold("2-1", "stale", "app", str(stick["number"]))
        stale = await host.said("stale", "refused")
        assert "unplugged or has changed" in stale["message"]

        # The owner is killed: nothing stays attached, nothing is bound to none.
        await host.hold("2-1", "third")
        await host.said("third", "attached")
        await eventually(app, "test -b /dev/sda")
        await host.signal("third", "KILL")
        await eventually(app, "! test -e /dev/sda")
        await eventually(
            host.guest,
            "test $(basename $(readlink /sys/bus/usb/devices/2-1/driver)) = usb",
        )
        assert (await in_port(host, "2-1"))["state"] == "plugged"

        # Plugged in and out as fast as QEMU can: no growth, and held.
        before = await descriptors_of(host)
        for number in range(30):
            await host.plug("usb-kbd", f"f{number}", 3)
            await host.unplug(f"f{number}")
        await eventually(host.guest, "grep 'plugged too often' /tmp/daemon.log")
        assert await descriptors_of(host) <= before

        # The same with udevd's events.
        await host.guest.run(
            "kill $(cat /run/daemon.pid); mkdir -p /run/udev; /lib/systemd/systemd-udevd --daemon",
            user="root",
        )
        await start_service(host, "udev")
        await host.plug("usb-tablet", "t1", 4)
        tablet = await in_port(host, "1-4")
        assert tablet["interfaces"] == ["03:00:00"]
        assert tablet["sandboxes"] == []
