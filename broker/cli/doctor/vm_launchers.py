"""The part of ``brokerctl doctor`` about machines of libvirt, machined and other VMMs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from broker.cli.doctor.finding import Context, Finding, ok, warn
from broker.cli.policy.records import is_made_for_run
from broker.host.launchers.libvirt.hook import FOLDER, hook_program, hook_source
from broker.host.vmm import accel
from broker.host.vmm.control import Monitor
from broker.host.vmm.hosttools import find_vhost_device_vsock
from policy.records import kinds
from policy.records.kinds import MONITORS
from policy.records.loader import load_records, search_path
from policy.records.model import (
    LibvirtPeer,
    MachinePeer,
    Record,
    is_of_others,
)

VHOST_VSOCK = Path("/dev/vhost-vsock")
MACHINED = Path("/run/systemd/machine/io.systemd.Machine")
HOOKS = FOLDER
LIBRARIES = Path("/usr")
_DRIVERS = "libvirt/connection-driver/libvirt_driver_{}.so"
_QEMU = ("qemu-system-x86_64", "qemu-system-x86")
_FOR_A_RUN = {
    kinds.LIBVIRT.name: (
        ("virsh", "libvirt-clients"),
        ("libvirtd", "libvirt-daemon libvirt-daemon-driver-qemu"),
        _QEMU,
    ),
    kinds.VMSPAWN.name: (("systemd-vmspawn", "systemd-container"), _QEMU),
}
_OF_A_SERVICE_MANAGER = (kinds.VMSPAWN.name,)
_INSTALL_HOOK = "sudo brokerctl launcher install libvirt"


async def check_vm_launchers(context: Context) -> Sequence[Finding]:
    """Check what the records of libvirt's and machined's machines need."""
    folders = search_path(context.paths.runtime, context.paths.config)
    records = load_records(folders).records.values()
    peers = {type(peer) for peer in _peers(records)}
    found: list[Finding] = []
    if LibvirtPeer in peers:
        found += _libvirt(context)
    launches = [record.host.launch for record in records]
    for kind in sorted({one.kind.name for one in launches if is_made_for_run(one)}):
        found += _made_for_run(context, kind)
    if MachinePeer in peers:
        found += _machined()
    found += _monitors(context, records)
    return found or [
        ok("virtual machines", "machines that other programs start can be leased")
    ]


def _libvirt(context: Context) -> Iterator[Finding]:
    path = context.environ.get("PATH", os.defpath)
    if shutil.which("virsh", path=path) is None:
        text = "records name domains of libvirt, and virsh is not installed"
        yield warn("virtual machines", text, "sudo apt install libvirt-clients")
    yield from _drivers()
    hook = hook_program(HOOKS)
    if not os.access(hook, os.X_OK):
        text = f"records name domains of libvirt, and {hook} is missing: leases cannot begin"
        yield warn("virtual machines", text, _INSTALL_HOOK)
    elif hook.read_bytes() != hook_source():
        text = f"{hook} is of another version of Vitrail"
        yield warn("virtual machines", text, _INSTALL_HOOK)
    if not VHOST_VSOCK.exists() and find_vhost_device_vsock(context.paths) is None:
        text = f"domains do not get a vsock without {VHOST_VSOCK} or vhost-device-vsock"
        yield warn("virtual machines", text, "sudo modprobe vhost_vsock")


def _drivers() -> Iterator[Finding]:
    """A record does not say whether its domain is a machine or a container."""
    found = {
        kind
        for kind in ("qemu", "lxc")
        for folder in ("lib*", "lib/*-linux-gnu*")
        if any(LIBRARIES.glob(f"{folder}/{_DRIVERS.format(kind)}"))
    }
    if not found:
        text = "records name domains of libvirt, and libvirt does not have a driver"
        mend = "sudo apt install libvirt-daemon-driver-qemu (containers: -driver-lxc)"
        yield warn("virtual machines", text, mend)
    elif found == {"qemu"}:
        text = "libvirt does not have a driver for containers"
        yield ok(
            "virtual machines", f"{text}: sudo apt install libvirt-daemon-driver-lxc"
        )


def _made_for_run(context: Context, kind: str) -> Iterator[Finding]:
    path = context.environ.get("PATH", os.defpath)
    for program, package in _FOR_A_RUN[kind]:
        # virsh starts libvirtd, which is not on everybody's PATH.
        if shutil.which(program, path=f"{path}:/usr/sbin:/usr/local/sbin") is None:
            text = f'records of kind "{kind}" need {program}'
            yield warn("virtual machines", text, f"sudo apt install {package}")
    runtime = context.environ.get("XDG_RUNTIME_DIR", "")
    if (
        kind in _OF_A_SERVICE_MANAGER
        and not Path(runtime, "systemd/private").is_socket()
    ):
        text = f'records of kind "{kind}" need a service manager of this user'
        yield warn("virtual machines", text, "loginctl enable-linger")


def _monitors(context: Context, records: Iterable[Record]) -> Iterator[Finding]:
    """What machines of VMMs other than QEMU need: the program, and KVM."""
    launches = [record.host.launch for record in records]
    wanted = {
        Monitor(launch.kind.name) for launch in launches if launch.kind.name in MONITORS
    }
    path = context.environ.get("PATH", os.defpath)
    for monitor in sorted(wanted):
        if shutil.which(monitor.value, path=path) is None:
            text = f'records of kind "{monitor}" need {monitor}, which is not installed'
            yield warn("virtual machines", text, "see docs/launchers/vmm.md")
        text = f'the kind "{monitor}" is experimental: it was only tested with a substitute'
        yield warn("virtual machines", text, 'use kind = "microvm", which is QEMU')
    missing = accel.permission() if wanted else None
    if missing is not None:
        names = " and ".join(f'"{monitor}"' for monitor in sorted(wanted))
        text = f"records of kind {names} need KVM: {missing.reason}"
        yield warn("virtual machines", text, missing.hint)


def _machined() -> Iterator[Finding]:
    if not MACHINED.exists():
        text = f"records name machines of systemd-machined, and {MACHINED} is missing"
        yield warn(
            "virtual machines",
            text,
            "sudo apt install systemd-container (257 or later)",
        )
    if not VHOST_VSOCK.exists():
        text = (
            f"records name machines of systemd-machined, and {VHOST_VSOCK} is missing"
        )
        yield warn("virtual machines", text, "sudo modprobe vhost_vsock")


def _peers(records: Iterable[Record]) -> Iterator[object]:
    for record in records:
        launch = record.host.launch
        if is_of_others(launch):
            yield launch.peer
