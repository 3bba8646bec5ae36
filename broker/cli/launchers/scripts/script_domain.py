"""A whole domain of libvirt's for what a record promises: ``virsh define`` takes it.

It boots the record's image as a domain that Vitrail makes for one run
(``libvirt.throwaway``), and stays until the user undefines it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from broker.cli.launchers.adoption.domain_folders import with_folders
from broker.cli.launchers.adoption.domains import vsock_way
from broker.cli.launchers.libvirt_domain import QEMU, require_program
from broker.cli.launchers.scripts.script_arguments import (
    ScriptMachine,
    refuse_what_lacks,
)
from broker.cli.launchers.scripts.script_machine import (
    ScriptRequest,
    planned,
    write_initrd,
)
from broker.core.paths import Paths
from broker.host.images.store import find_image
from broker.host.launchers.libvirt.domain import (
    VsockWay,
    normalised,
    with_vsock,
)
from broker.host.launchers.libvirt.folder_places import FolderPlace, places_of
from broker.host.launchers.libvirt.throwaway import Throwaway, throwaway_xml
from broker.host.vmm.accel import choose_accel
from broker.host.vmm.image_boot import ImageBoot
from policy.records.model import LibvirtPeer

_SESSION = "qemu:///session"
_NAMES = uuid.UUID("6f3d5a1e-33c0-4a0c-9a43-0d6f5f0b8a51")
"""Of the UUIDs of domains without one, so that a record's domain is the same again."""


def domain_of(
    machine: ScriptMachine,
    spec: Throwaway,
    way: VsockWay | None,
    places: Sequence[FolderPlace] = (),
) -> str:
    """Return the domain's XML; ``way``: its vsock, None: the kernel's, with a fixed CID.

    ``places``: of folders, which libvirt's hook has served.
    Raises RefusedError for what a domain cannot have.
    """
    refuse_what_lacks(machine, "libvirt", disk=False)
    root = ET.fromstring(throwaway_xml(spec))  # noqa: S314 -- our own text
    devices, memory = root.find("devices"), root.find("memory")
    assert devices is not None
    assert memory is not None
    if machine.huge_pages:
        backing = ET.Element("memoryBacking")
        root.insert(list(root).index(memory) + 1, backing)
        pages = ET.SubElement(backing, "hugepages")
        ET.SubElement(pages, "page", {"size": "2", "unit": "MiB"})
    # 'virsh console' shows a start that fails; what is not read is dropped.
    devices.remove(devices.findall("serial")[0])
    ET.SubElement(devices, "serial", {"type": "pty"})
    if way is None:
        vsock = ET.SubElement(devices, "vsock", {"model": "virtio"})
        ET.SubElement(vsock, "cid", {"auto": "no", "address": str(machine.cid)})
    text = ET.tostring(root, encoding="unicode")
    made = text if way is None else with_vsock(text, way)
    assert made is not None
    if places:
        made = with_folders(made, {one.tag: one.socket for one in places})
    return normalised(made)


async def describe_domain(paths: Paths, wanted: ScriptRequest) -> str:
    """Return the XML of a record's domain.  Nothing runs and nothing is defined.

    Raises RefusedError, SetupError.
    """
    record, launch = wanted.record, wanted.launch
    machine = planned(paths, wanted, 0)
    places: Sequence[FolderPlace] = ()
    if isinstance(launch.peer, LibvirtPeer):
        # Of a domain with a fixed CID no hook says when its folders are to be served.
        places = places_of(paths, record.name, len(machine.folders))
        machine = replace(machine, folders=())
    refuse_what_lacks(machine, "libvirt", disk=False)
    qemu, image = require_program(*QEMU), find_image(paths, launch.image)
    choice = await choose_accel(qemu, image.kernel, image.initrd, cache=paths.cache)
    name, number = record.name, str(uuid.uuid5(_NAMES, record.name))
    way = None
    if isinstance(launch.peer, LibvirtPeer):
        way = vsock_way(paths, record.name, _SESSION)
        if _is_uuid(launch.peer.domain):
            number = launch.peer.domain
        else:
            name = launch.peer.domain
    boot = ImageBoot(
        uuid=number,
        sandbox=record.name,
        accel=choice.accel,
        kernel=_real(image.kernel),
        initrd=_real(write_initrd(paths, record, launch)),
        root=_real(image.root),
        memory_mib=launch.memory_mib,
        cpus=1,
    )
    return domain_of(machine, Throwaway(name, qemu, boot), way, places)


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _real(path: Path) -> Path:
    return path.resolve()
