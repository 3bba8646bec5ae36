"""Add a vsock to a libvirt domain's XML and remove it, for brokerctl: text in, text out.

Source: https://libvirt.org/formatdomain.html (vsock, memoryBacking) and
https://libvirt.org/kbase/qemu-passthrough-security.html (qemu:commandline).
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.parsers import expat

_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_MEMORY = ("<source type='memfd'/>", "<access mode='shared'/>")
_CHARDEV = "vitrail-vsock"
_FOLDER = re.compile("vitrail-[0-9]+")
"""As ``qemu_arguments.FOLDER_TAG``, by which the guest's agent mounts a place."""
SERIAL = "vitrail-guest"
"""Serial number of the installer's disk, which udev links as /dev/disk/by-id/virtio-SERIAL."""


class DomainError(Exception):
    """The XML cannot be given a vsock; the text says why."""


@dataclass(frozen=True)
class VsockWay:
    """By which vsock: the kernel's, or a helper's socket."""

    vhost_user: Path | None
    """None: the kernel's, with a CID that libvirt chooses."""
    owner: tuple[int, int] | None = None
    """User and group of ``vhost_user``, where QEMU would run as another user:
    the system's libvirtd."""


def with_vsock(xml: str, way: VsockWay) -> str | None:
    """Return a domain's XML with a vsock device; None if it has this one already.

    Raises DomainError.
    """
    root, devices = parse_domain(xml)
    if way.vhost_user is None:
        if devices.find("vsock") is not None:
            return None
        vsock = ET.SubElement(devices, "vsock", {"model": "virtio"})
        ET.SubElement(vsock, "cid", {"auto": "yes"})
    elif f"path={way.vhost_user}" in xml:
        return None
    else:
        share_memory(root)
        _remove_arguments(root)  # of a record that it had before
        _add_arguments(root, way.vhost_user)
        if way.owner is not None:
            run_as(root, *way.owner)
    return domain_text(root)


def with_installer(xml: str, file: Path) -> str:
    """Return a domain's XML with a read-only disk that is the installer's text.

    Raises DomainError.
    """
    root, devices = parse_domain(xml)
    for disk in _installers(devices):
        devices.remove(disk)
    disk = ET.SubElement(devices, "disk", {"type": "file", "device": "disk"})
    ET.SubElement(disk, "driver", {"name": "qemu", "type": "raw"})
    # Optional: the domain starts without the disk when the file has been removed.
    source = {"file": str(file), "startupPolicy": "optional"}
    ET.SubElement(disk, "source", source)
    used = {target.get("dev") for target in devices.iterfind("disk/target")}
    names = (f"vd{letter}" for letter in string.ascii_lowercase)
    name = next((name for name in names if name not in used), None)
    if name is None:
        raise DomainError("it has 26 virtio disks, so there is no name for another one")
    ET.SubElement(disk, "target", {"dev": name, "bus": "virtio"})
    ET.SubElement(disk, "readonly")
    ET.SubElement(disk, "serial").text = SERIAL
    return domain_text(root)


def without_vsock(xml: str, before: str) -> str:
    """Return a domain's XML without what the functions above added to ``before``.

    What was changed since stays.  Raises DomainError.
    """
    (root, devices), (old, old_devices) = parse_domain(xml), parse_domain(before)
    for disk in _installers(devices):
        devices.remove(disk)
    if old_devices.find("vsock") is None:
        for vsock in devices.findall("vsock"):
            devices.remove(vsock)
    folders = folder_devices(devices)
    for one in folders:
        devices.remove(one)
    if _remove_arguments(root) or folders:
        _restore(root, old, "memoryBacking")
        _restore(root, old, "seclabel[@model='dac']")
    return domain_text(root)


def normalised(xml: str) -> str:
    """Return the XML as the functions above write it, to compare.  Raises DomainError."""
    return domain_text(parse_domain(xml)[0])


def domain_text(root: ET.Element) -> str:
    """Return a domain's XML as these functions write it."""
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def parse_domain(xml: str) -> tuple[ET.Element, ET.Element]:
    """Return a domain's element and that of its devices.  Raises DomainError."""
    _refuse_doctype(xml)
    ET.register_namespace("qemu", _QEMU)
    try:
        root = ET.fromstring(xml)  # noqa: S314 -- no document type, see above
    except ET.ParseError as error:
        raise DomainError(f"cannot parse its XML: {error}") from error
    devices = root.find("devices")
    if root.tag != "domain" or devices is None:
        raise DomainError("its XML does not describe a domain with devices")
    return root, devices


def _installers(devices: ET.Element) -> list[ET.Element]:
    """Return the disks with the installer."""
    return [one for one in devices.findall("disk") if one.findtext("serial") == SERIAL]


def folder_devices(devices: ET.Element) -> list[ET.Element]:
    """Return the places for folders, which another program serves."""
    return [
        one
        for one in devices.findall("filesystem")
        if _FOLDER.fullmatch(attribute(one, "target", "dir"))
        and attribute(one, "source", "socket")
    ]


def attribute(element: ET.Element, child: str, name: str) -> str:
    """Return an attribute of an element's child; empty without one."""
    found = element.find(child)
    return "" if found is None else found.get(name, "")


def _remove_arguments(root: ET.Element) -> bool:
    """Remove QEMU's arguments for the vsock; return whether there were any."""
    line = root.find(f"{{{_QEMU}}}commandline")
    if line is None:
        return False
    words = list(line)
    ours = [
        index
        for index, word in enumerate(words)
        if {f"id={_CHARDEV}", f"chardev={_CHARDEV}"}
        & {*word.get("value", "").split(",")}
    ]
    for index in ours:
        # Each follows the word of its option: -chardev, -device.
        for word in words[max(index - 1, 0) : index + 1]:
            line.remove(word)
    if len(line) == 0:
        root.remove(line)
    return bool(ours)


def _restore(root: ET.Element, old: ET.Element, path: str) -> None:
    """Replace the elements of a path by those of the older XML."""
    for present in root.findall(path):
        root.remove(present)
    root.extend(old.findall(path))


def _refuse_doctype(xml: str) -> None:
    """Raise DomainError for XML with a document type, which could expand."""

    def refuse(*_: object) -> None:
        raise DomainError("its XML has a document type declaration")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(xml.encode(), True)  # noqa: FBT003 -- positional in expat
    except expat.ExpatError as error:
        raise DomainError(f"cannot parse its XML: {error}") from error


def share_memory(root: ET.Element) -> None:
    """Back the domain's memory by a shared memfd, as vhost-user devices require."""
    backing = root.find("memoryBacking")
    if backing is None:
        backing = ET.SubElement(root, "memoryBacking")
    for text in _MEMORY:
        wanted = ET.fromstring(text)  # noqa: S314 -- a constant
        for present in backing.findall(wanted.tag):
            backing.remove(present)
        backing.append(wanted)


def run_as(root: ET.Element, uid: int, gid: int) -> None:
    """Set the user as whom libvirt runs QEMU, so that it can reach the vsock's socket.

    A label that starts with + is a number
    (https://libvirt.org/formatdomain.html#security-label).
    """
    for present in root.findall("seclabel[@model='dac']"):
        root.remove(present)
    static = {"type": "static", "model": "dac", "relabel": "yes"}
    label = ET.SubElement(root, "seclabel", static)
    ET.SubElement(label, "label").text = f"+{uid}:+{gid}"


def _add_arguments(root: ET.Element, socket: Path) -> None:
    """Add QEMU's arguments for the vsock.  Raises DomainError."""
    if set(str(socket)) & set(",\n"):
        raise DomainError(f"QEMU's command line cannot contain the path {socket}")
    line = root.find(f"{{{_QEMU}}}commandline")
    if line is None:
        line = ET.SubElement(root, f"{{{_QEMU}}}commandline")
    for word in (
        *("-chardev", f"socket,id={_CHARDEV},path={socket}"),
        *("-device", f"{_device(root)},chardev={_CHARDEV}"),
    ):
        ET.SubElement(line, f"{{{_QEMU}}}arg", {"value": word})


def _device(root: ET.Element) -> str:
    """Return QEMU's device, where libvirt puts none on the bus."""
    machine = root.find("os/type")
    name = "" if machine is None else machine.get("machine", "")
    if name.startswith("microvm"):
        return "vhost-user-vsock-device"
    # i440fx, which libvirt gives a domain without a known system, has no PCI Express.
    bus = "pci.0" if name == "pc" or name.startswith("pc-i440fx") else "pcie.0"
    return f"vhost-user-vsock-pci,bus={bus},addr=0x1e"
