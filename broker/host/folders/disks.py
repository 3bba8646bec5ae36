"""The way of an image into a micro VM: a disk that is plugged into its QEMU, by QMP.

QEMU gets the open image as a descriptor (``add-fd``), never a path, and reads it as raw:
no byte of it decides which driver reads it, so an image that begins as one of qcow2, whose
header names other files, is a disk that begins with these bytes.

The guest has to let a disk go.  If it does not, its sandbox is ended.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import trio

from broker.core.errors import RefusedError, UpstreamError, VitrailError
from broker.core.files.opened_folder import OpenedFolder
from broker.core.limits import transfer as limits
from broker.host.launchers.microvm_machine import MicroVmMachine
from broker.host.machine_interface import Machine
from broker.host.vmm.qmp import Json, Qmp, QmpError, fdset_of

PATH = "/dev/disk/by-tag"
"""Where the guest's agent has a link for each disk."""
_PORT = re.compile(r"diskport([0-3])")
"""As ``qemu_arguments.DISK_PORT``, which is loaded with the first machine."""
_DEVICE = re.compile(r"disk([0-3])")
_LOOK_SECONDS = 0.05


@dataclass(eq=False)
class AttachedDisk:
    """A disk of a micro VM: ``viewer.folders.desk.Mounted``."""

    machine: MicroVmMachine
    qmp: Qmp
    port: int
    path: str
    place: int | None
    """Its number in messages to the guest's agent."""
    released: bool = False
    kept: bool = False

    async def lost(self) -> None:
        """Wait for ever: the disk is QEMU's."""
        await trio.sleep_forever()

    async def release(self) -> None:
        """Unplug the disk.  Raises RefusedError if the guest keeps it."""
        if not await _unplug(self.qmp, self.port):
            raise RefusedError(
                "the guest does not let the disk go",
                hint="unmount it in the sandbox and try again; to stop the sandbox instead, run "
                "'brokerctl unshare --force SANDBOX TAG'",
            )
        self.released = True


class Disks:
    """Plugs images into micro VMs, one at a time into each."""

    def __init__(self) -> None:
        self._plugging: WeakKeyDictionary[Qmp, trio.Lock] = WeakKeyDictionary()

    @asynccontextmanager
    async def attached(
        self, machine: Machine, image: OpenedFolder, *, write: bool
    ) -> AsyncIterator[AttachedDisk]:
        """Hold an image as a disk of a machine while the block runs.

        Raises VitrailError.  The disk's ``kept`` says whether the guest kept it.
        """
        if not isinstance(machine, MicroVmMachine):
            raise RefusedError("only micro VMs of Vitrail can have a disk of an image")
        qmp = machine.qmp
        # A QEMU that answers slowly delays its own disks alone.
        async with self._plugging.setdefault(qmp, trio.Lock()):
            port = await _free_port(qmp)
            path = f"{PATH}/{image.tag}"
            disk = AttachedDisk(machine, qmp, port, path, limits.FIRST_DISK + port)
            try:
                await _plug(qmp, disk.port, image, write=write)
            except BaseException:
                # It may have come through.
                # guard: no disk is left after a failed attempt
                await _end(disk)
                raise
        try:
            yield disk
        finally:
            await _end(disk)

    async def forget(self, machine: MicroVmMachine) -> bool:
        """Unplug the disks that an earlier broker has left; return whether one is kept."""
        kept = False
        try:
            qmp = machine.qmp
            for port in await _found(qmp, _DEVICE):
                kept = not await _unplug(qmp, port) or kept
        except UpstreamError:
            return bool(machine.alive())
        return kept


async def _end(disk: AttachedDisk) -> None:
    """Unplug a disk; note whether the guest keeps it.  Not cancellable."""
    with trio.CancelScope(shield=True):
        if disk.released:
            return
        try:
            # guard: a disk that the guest keeps is not overlooked
            disk.kept = not await _unplug(disk.qmp, disk.port)
        except VitrailError:
            # It has ended, or says nothing: a suspended one has the disk when it is resumed.
            # guard: a machine that does not answer may keep its disk
            disk.kept = bool(disk.machine.alive())


async def _found(qmp: Qmp, names: re.Pattern[str]) -> list[int]:
    """Return the numbers of QEMU's devices whose names fit."""
    untrusted = await qmp.execute("qom-list", {"path": "/machine/peripheral"})
    if not isinstance(untrusted, list):
        raise UpstreamError("QEMU did not list its devices")
    named = (str(one.get("name")) for one in untrusted if isinstance(one, dict))
    return sorted(int(fit[1]) for name in named if (fit := names.fullmatch(name)))


async def _free_port(qmp: Qmp) -> int:
    """Return a port without a disk.  Raises RefusedError without one."""
    used = await _found(qmp, _DEVICE)
    for port in await _found(qmp, _PORT):
        if port not in used:
            return port
    raise RefusedError(
        "this micro VM has no free port for a disk",
        hint="stop the sandbox and start it again: its ports are those of the [[disks]] "
        "that its record had at its start",
    )


async def _plug(qmp: Qmp, port: int, image: OpenedFolder, *, write: bool) -> None:
    """Give QEMU an image and its guest the disk.  Raises UpstreamError."""
    number = fdset_of(
        await qmp.execute("add-fd", {"opaque": f"disk{port}"}, fds=(image.fd,))
    )
    try:
        block = stat.S_ISBLK(os.fstat(image.fd).st_mode)
        node = node_of(port, number, write=write, device=block)
        await qmp.execute("blockdev-add", node)
    finally:
        # The node has a copy of it.
        await _try(qmp, "remove-fd", {"fdset-id": number})
    device: dict[str, Json] = {
        "driver": "virtio-blk-pci",
        "id": f"disk{port}",
        "bus": f"diskport{port}",
        "drive": f"disknode{port}",
        "serial": image.tag,
        # An error is the guest's to handle: it stops no machine.
        "werror": "report",
        "rerror": "report",
    }
    await qmp.execute("device_add", device)


def node_of(
    port: int, fdset: int, *, write: bool, device: bool = False
) -> dict[str, Json]:
    """Return the block node of an image or a block device; pure."""
    # guard: an image that may be read is not written to
    read_only = not write
    file: dict[str, Json] = {
        "driver": "host_device" if device else "file",
        "filename": f"/dev/fdset/{fdset}",
        "read-only": read_only,
        # Another QEMU of the user's, which locks its images so, is told by this.
        "locking": "on",
    }
    # guard: an image's content does not choose its driver
    layer: dict[str, Json] = {"driver": "raw"}
    return {
        **layer,
        "node-name": f"disknode{port}",
        "read-only": read_only,
        "file": file,
    }


async def _unplug(qmp: Qmp, port: int) -> bool:
    """Take a disk from the guest; return False if it keeps it.  Raises UpstreamError."""
    await _try(qmp, "device_del", {"id": f"disk{port}"})
    status = await qmp.execute("query-status")
    if isinstance(status, dict) and status.get("status") == "prelaunch":
        # Its start was given up: no guest runs that could let it go.
        return port not in await _found(qmp, _DEVICE)
    with trio.move_on_after(limits.DISK_UNPLUG_SECONDS):
        # Looked up as a USB device is: of events, one may be dropped.
        while port in await _found(qmp, _DEVICE):  # noqa: ASYNC110
            await trio.sleep(_LOOK_SECONDS)
        # QEMU holds the node until the guest's last request of it has ended.
        while not await _try(qmp, "blockdev-del", {"node-name": f"disknode{port}"}):  # noqa: ASYNC110
            await trio.sleep(_LOOK_SECONDS)
        return True
    return False


async def _try(qmp: Qmp, command: str, arguments: dict[str, Json]) -> bool:
    """Run a command; return False if its object is in use.

    True if there is no such object any more.
    """
    try:
        await qmp.execute(command, arguments)
    except QmpError as error:
        return "in use" not in error.desc
    return True
