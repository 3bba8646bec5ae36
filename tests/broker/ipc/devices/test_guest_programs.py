"""The guest's programs for devices: their reactions to the kernel's messages."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

SHIMS = Path(__file__).parents[4] / "shims"
DISK = "add@/devices/x\0ACTION=add\0DEVPATH={path}\0SUBSYSTEM=block\0DEVNAME=sdb\0"
VIRTUAL = "/devices/platform/vhci_hcd.0/usb3/3-1/3-1:1.0/host0/block/sdb"


@pytest.fixture
def shim(monkeypatch, tmp_path):
    """The program, with ``mount``, ``umount`` and chown that only take notes."""
    found = runpy.run_path(str(SHIMS / "usb/usb_devices.py"))
    calls = []
    scope = found["DeviceNodes"].take.__globals__

    class Run:
        """``subprocess.run``: the options with ``uid=`` are refused, as by ext4."""

        def __init__(self, words, **_):
            calls.append(words)
            self.returncode = 32 if any("uid=" in word for word in words) else 0

    monkeypatch.setitem(scope, "MEDIA", tmp_path)
    monkeypatch.setattr(scope["subprocess"], "run", Run)
    monkeypatch.setattr(os, "chown", lambda *words: calls.append(words))
    return found, calls


def test_disk_of_the_virtual_bus_is_given_and_mounted(shim, tmp_path):
    found, calls = shim
    nodes = found["DeviceNodes"](1000, 1001)
    nodes.take(found["uevent"](DISK.format(path=VIRTUAL).encode()))
    place = str(tmp_path / "sdb")
    assert calls == [
        (Path("/dev/sdb"), 1000, 1001),
        [
            *("mount", "-o", "nosuid,nodev,uid=1000,gid=1001,umask=077"),
            *("/dev/sdb", place),
        ],
        ["mount", "-o", "nosuid,nodev", "/dev/sdb", place],
    ]
    assert Path(place).is_dir()
    event = found["uevent"](DISK.format(path=VIRTUAL).encode())
    nodes.take({**event, "ACTION": "remove"})
    assert calls[-1] == ["umount", "-l", place]
    assert not Path(place).exists()


@pytest.mark.parametrize(
    "path",
    [
        "/devices/pci0000:00/0000:00:04.0/virtio1/block/sdb",
        "/devices/platform/vhci_hcd_like/block/sdb",
        "",
    ],
)
def test_other_disks_of_the_machine_are_left(shim, path):
    found, calls = shim
    found["DeviceNodes"](1000, 1000).take(
        found["uevent"](DISK.format(path=path).encode())
    )
    assert calls == []


@pytest.mark.parametrize("data", [b"", b"add@/x", b"\xff\0\xff=\xff\0=\0==\0"])
def test_any_bytes_are_a_message(shim, data):
    found, calls = shim
    found["DeviceNodes"](1000, 1000).take(found["uevent"](data))
    assert calls == []
