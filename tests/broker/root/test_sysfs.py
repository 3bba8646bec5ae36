"""Devices as sysfs shows them: described by what the kernel says is there."""

from __future__ import annotations

import os
import shutil

import pytest
import trio

from broker.core.errors import UpstreamError
from broker.root.monitor import Watcher
from broker.root.sysfs import DeviceGoneError, SysfsDevice, describe, ports
from tests.kit.threads import no_threads
from tests.kit.usb.samples import KEYBOARD, STICK, descriptors


def plug(root, port="2-1", number=5, raw=None, **attributes):
    folder = root / port
    folder.mkdir()
    texts = {
        "busnum": port.partition("-")[0],
        "devnum": str(number),
        "serial": "A1",
        "product": "DT",
        "speed": "480",
        "authorized": "1",
        "removable": "removable",
        **attributes,
    }
    for name, text in texts.items():
        (folder / name).write_bytes(os.fsencode(text) + b"\n")
    (folder / "descriptors").write_bytes(raw or descriptors(STICK))
    interface = folder / f"{port}:1.0"
    interface.mkdir()
    (interface / "driver").symlink_to("../../drivers/usb-storage")
    return folder


class Seen(Watcher):
    def __init__(self, root):
        self.said = []
        super().__init__(
            seen=lambda device: self.said.append(("seen", device.port, device.number)),
            removed=lambda port: self.said.append(("removed", port)),
            malformed=lambda port, why: self.said.append(("malformed", port, why)),
            root=root,
        )


def test_device_is_described(tmp_path):
    plug(tmp_path)
    found = describe("2-1", tmp_path)
    assert (found.id, found.serial, found.product) == ("0951:1666", "A1", "DT")
    assert (found.driver, found.removable) == ("usb-storage", "removable")
    assert ports(tmp_path) == ["2-1"]


@pytest.mark.parametrize("port", ["../2-1", "2-1/../2-1", "usb1", "2-1:1.0", "", "."])
def test_names_that_are_not_ports_are_never_opened(tmp_path, port):
    with pytest.raises(DeviceGoneError):
        SysfsDevice(port, tmp_path)


def test_swap_in_the_port_is_not_seen_through_the_open_directory(tmp_path):
    folder = plug(tmp_path)
    held = SysfsDevice("2-1", tmp_path)
    try:
        shutil.rmtree(folder)
        plug(tmp_path, number=6)
        with pytest.raises(DeviceGoneError):
            held.describe()
        with pytest.raises(DeviceGoneError):
            held.write("authorized", "1")
    finally:
        held.close()
    assert (folder / "authorized").read_text() == "1\n"


def test_kernel_refusal_is_told_from_a_device_that_has_gone(tmp_path):
    plug(tmp_path)
    held = SysfsDevice("2-1", tmp_path)
    try:
        with pytest.raises(UpstreamError, match="rejected usbip_sockfd=3") as caught:
            held.write("usbip_sockfd", "3")
        assert not isinstance(caught.value, DeviceGoneError)
    finally:
        held.close()


async def test_malformed_devices_are_reported_and_not_seen(tmp_path):
    watcher = Seen(tmp_path)
    plug(tmp_path, raw=descriptors(STICK, KEYBOARD)[:-3])
    plug(tmp_path, port="2-2", serial="s" * 300)
    await watcher.look_at_all()
    words = [(what, port) for what, port, *_ in watcher.said]
    assert sorted(words, key=lambda word: word[1]) == [
        ("removed", "2-1"),
        ("malformed", "2-1"),
        ("removed", "2-2"),
        ("malformed", "2-2"),
    ]


async def test_watcher_reads_the_present_devices_and_not_the_events(tmp_path):
    watcher = Seen(tmp_path)
    folder = plug(tmp_path)
    await watcher.look_at(["2-1", "2-1", "2-9"])
    # Ports are looked at beside each other, each of them once.
    assert sorted(watcher.said) == [("removed", "2-9"), ("seen", "2-1", 5)]
    shutil.rmtree(folder)
    watcher.said.clear()
    await watcher.look_at_all()
    assert watcher.said == [("removed", "2-1")]


def test_hostile_strings_are_escaped(tmp_path):
    plug(tmp_path, product="\x1b[2Jok\u202e", serial="")
    assert describe("2-1", tmp_path).product == r"\x1b[2Jok\u202e"


async def test_a_port_is_looked_at_when_there_is_room_for_a_thread(
    tmp_path, autojump_clock
):
    plug(tmp_path)
    watcher = Seen(tmp_path)
    async with trio.open_nursery() as nursery:
        with no_threads():
            nursery.start_soon(watcher.look_at_all)
            await trio.sleep(10)  # of the clock that jumps
        assert watcher.said == []
    assert watcher.said == [("seen", "2-1", 5)]
