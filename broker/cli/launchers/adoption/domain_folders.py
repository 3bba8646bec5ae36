"""Places for the user's folders in a libvirt domain's XML: text in, text out.

Each is a virtiofs device whose server libvirt does not start: its hook has the broker
do so (``libvirt.folder_places``).

Source: https://libvirt.org/kbase/virtiofs.html (externally-launched virtiofsd).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from broker.cli.launchers.adoption.domains import is_systems, vsock_way
from broker.core.paths import Paths
from broker.host.launchers.libvirt.domain import (
    attribute,
    domain_text,
    folder_devices,
    parse_domain,
    run_as,
    share_memory,
    with_vsock,
)
from broker.host.launchers.libvirt.folder_places import places_of
from policy.records.model import Record
from policy.records.places import folder_places


def with_places(paths: Paths, record: Record, connect: str, xml: str) -> str | None:
    """Return a domain's XML with what its record's sandbox needs; None if it has it.

    That is a vsock, and a place for each of its folders.  Raises DomainError.
    """
    changed = with_vsock(xml, vsock_way(paths, record.name, connect))
    new = xml if changed is None else changed
    found = places_of(paths, record.name, folder_places(record))
    places = {place.tag: place.socket for place in found}
    if not has_folders(new, places):
        # The system's QEMU is another user, who cannot enter the sockets' directory.
        owner = (os.getuid(), os.getgid()) if is_systems(connect) else None
        new = changed = with_folders(new, places, owner)
    return changed


def with_folders(
    xml: str, places: Mapping[str, Path], owner: tuple[int, int] | None = None
) -> str:
    """Return a domain's XML with these places for folders, and no other ones of ours.

    ``places``: the socket of each, by its tag.  ``owner``: see ``VsockWay``.
    Raises DomainError.
    """
    root, devices = parse_domain(xml)
    for one in folder_devices(devices):
        devices.remove(one)
    for tag, socket in places.items():
        one = ET.SubElement(devices, "filesystem", {"type": "mount"})
        ET.SubElement(one, "driver", {"type": "virtiofs", "queue": "1024"})
        ET.SubElement(one, "source", {"socket": str(socket)})
        ET.SubElement(one, "target", {"dir": tag})
    if places:
        share_memory(root)
        if owner is not None:
            run_as(root, *owner)
    return domain_text(root)


def has_folders(xml: str, places: Mapping[str, Path]) -> bool:
    """Return whether a domain has these places for folders, and no other ones of ours."""
    _, devices = parse_domain(xml)
    present = {
        attribute(one, "target", "dir"): attribute(one, "source", "socket")
        for one in folder_devices(devices)
    }
    return present == {tag: str(socket) for tag, socket in places.items()}


def runs_as_us(xml: str) -> bool:
    """Return whether the domain's QEMU runs as this user.  Raises DomainError."""
    label = parse_domain(xml)[0].findtext("seclabel[@model='dac']/label", "")
    return label == f"+{os.getuid()}:+{os.getgid()}"
