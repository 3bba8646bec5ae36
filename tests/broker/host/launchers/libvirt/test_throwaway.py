"""The XML of a throw-away domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from broker.host.launchers.libvirt.domain import VsockWay, with_vsock
from broker.host.launchers.libvirt.throwaway import Throwaway, throwaway_xml
from broker.host.vmm.image_boot import ImageBoot
from broker.host.vmm.qemu_arguments import Accel

BOOT = ImageBoot(
    uuid="5d71e97b-d61d-4a3d-ac85-ad1585f5c6e7",
    sandbox="work",
    accel=Accel.TCG,
    kernel=Path("/images/kernel"),
    initrd=Path("/images/<initrd> & 'more'"),
    root=Path("/images/root"),
    memory_mib=512,
    cpus=2,
)
SPEC = Throwaway("vitrail-work", Path("/usr/bin/qemu-system-x86_64"), BOOT)


def made(**changes):
    return ET.fromstring(throwaway_xml(replace(SPEC, boot=replace(BOOT, **changes))))


def test_it_boots_the_image():
    root = made()
    assert root.get("type") == "qemu"
    assert root.findtext("name") == "vitrail-work"
    assert root.findtext("uuid") == BOOT.uuid
    assert (root.findtext("memory"), root.findtext("vcpu")) == ("512", "2")
    assert root.findtext("os/initrd") == "/images/<initrd> & 'more'"
    words = root.findtext("os/cmdline").split()
    assert "vitrail.name=work" in words
    assert "no_timer_check" in words


def test_with_kvm_its_clock_is_the_machines_own():
    root = made(accel=Accel.KVM)
    assert root.get("type") == "kvm"
    assert "no_timer_check" not in root.findtext("os/cmdline")


def test_its_image_is_read_only():
    (disk,) = made().findall("devices/disk")
    assert disk.find("source").get("file") == "/images/root"
    assert disk.find("readonly") is not None


@pytest.mark.parametrize("name", ["on_poweroff", "on_reboot", "on_crash"])
def test_it_is_over_when_its_guest_ends(name):
    assert made().findtext(name) == "destroy"


def test_it_has_no_device_but_these():
    tags = sorted(device.tag for device in made().find("devices"))
    assert tags == ["controller", "disk", "emulator", "memballoon", "rng", "serial"]
    devices = made().find("devices")
    assert devices.find("controller").get("model") == "none"
    assert devices.find("memballoon").get("model") == "none"
    assert devices.find("serial").get("type") == "null"


def test_it_can_be_given_either_vsock():
    for way in (VsockWay(None), VsockWay(Path("/run/u/vhost.sock"))):
        assert with_vsock(throwaway_xml(SPEC), way) is not None
