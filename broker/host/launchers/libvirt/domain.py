"""Add a vsock to a libvirt domain's XML, for brokerctl: text in, text out.

Source: https://libvirt.org/formatdomain.html (vsock, memoryBacking) and
https://libvirt.org/kbase/qemu-passthrough-security.html (qemu:commandline).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET
from xml.parsers import expat

_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_MEMORY = ("<source type='memfd'/>", "<access mode='shared'/>")


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
    _refuse_doctype(xml)
    ET.register_namespace("qemu", _QEMU)
    try:
        root = ET.fromstring(xml)  # noqa: S314 -- no document type, see above
    except ET.ParseError as error:
        raise DomainError(f"cannot parse its XML: {error}") from error
    devices = root.find("devices")
    if root.tag != "domain" or devices is None:
        raise DomainError("its XML does not describe a domain with devices")
    if way.vhost_user is None:
        if devices.find("vsock") is not None:
            return None
        vsock = ET.SubElement(devices, "vsock", {"model": "virtio"})
        ET.SubElement(vsock, "cid", {"auto": "yes"})
    elif f"path={way.vhost_user}" in xml:
        return None
    else:
        _share_memory(root)
        _add_arguments(root, way.vhost_user)
        if way.owner is not None:
            _run_as(root, *way.owner)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


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


def _share_memory(root: ET.Element) -> None:
    """Back the domain's memory by a shared memfd, as vhost-user devices require."""
    backing = root.find("memoryBacking")
    if backing is None:
        backing = ET.SubElement(root, "memoryBacking")
    for text in _MEMORY:
        wanted = ET.fromstring(text)  # noqa: S314 -- a constant
        for present in backing.findall(wanted.tag):
            backing.remove(present)
        backing.append(wanted)


def _run_as(root: ET.Element, uid: int, gid: int) -> None:
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
        *("-chardev", f"socket,id=vitrail-vsock,path={socket}"),
        *("-device", f"{_device(root)},chardev=vitrail-vsock"),
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
