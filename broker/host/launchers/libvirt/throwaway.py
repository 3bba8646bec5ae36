"""The XML of a domain that is made for one run: pure, values in and text out.

Only brokerctl runs this.

It boots our image as a micro VM does, and has no other device than its disk,
a source of randomness and its vsock (``domain.with_vsock``).

Source: https://libvirt.org/formatdomain.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from broker.host.vmm.image_boot import ImageBoot

_KERNEL_WORDS = ("console=ttyS0", "panic=-1", "quiet")
_ENDS = ("on_poweroff", "on_reboot", "on_crash")


@dataclass(frozen=True)
class Throwaway:
    """A domain to be made."""

    domain: str
    emulator: Path
    boot: ImageBoot


def throwaway_xml(spec: Throwaway) -> str:
    """Return the domain's XML, still without a vsock."""
    boot = spec.boot
    kind = "kvm" if boot.accel.uses_kvm else "qemu"
    root = ET.Element("domain", {"type": kind})
    _text(root, "name", spec.domain)
    _text(root, "uuid", boot.uuid)
    _text(root, "memory", str(boot.memory_mib), unit="MiB")
    _text(root, "vcpu", str(boot.cpus))
    _boot(ET.SubElement(root, "os"), boot)
    ET.SubElement(ET.SubElement(root, "features"), "acpi")
    # guard: a throw-away domain that reboots or crashes is over
    for name in _ENDS:
        _text(root, name, "destroy")
    _devices(ET.SubElement(root, "devices"), spec)
    return ET.tostring(root, encoding="unicode")


def _boot(os: ET.Element, boot: ImageBoot) -> None:
    _text(os, "type", "hvm", arch="x86_64", machine="q35")
    _text(os, "kernel", str(boot.kernel))
    _text(os, "initrd", str(boot.initrd))
    _text(os, "cmdline", " ".join((*_KERNEL_WORDS, *boot.kernel_args)))


def _devices(devices: ET.Element, spec: Throwaway) -> None:
    """Add the devices of a throw-away domain to its XML."""
    _text(devices, "emulator", str(spec.emulator))
    disk = ET.SubElement(devices, "disk", {"type": "file", "device": "disk"})
    ET.SubElement(disk, "driver", {"name": "qemu", "type": "raw"})
    ET.SubElement(disk, "source", {"file": str(spec.boot.root)})
    ET.SubElement(disk, "target", {"dev": "vda", "bus": "virtio"})
    # guard: the image is the same after a throw-away domain
    ET.SubElement(disk, "readonly")
    rng = ET.SubElement(devices, "rng", {"model": "virtio"})
    _text(rng, "backend", "/dev/urandom", model="random")
    ET.SubElement(devices, "memballoon", {"model": "none"})
    ET.SubElement(devices, "controller", {"type": "usb", "model": "none"})
    # The guest chooses how much it writes there: it is kept nowhere.
    ET.SubElement(devices, "serial", {"type": "null"})


def _text(parent: ET.Element, name: str, text: str, **attributes: str) -> None:
    ET.SubElement(parent, name, attributes).text = text
