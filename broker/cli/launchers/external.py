"""Checks of ``brokerctl doctor`` of sandboxes that other programs start."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from broker.cli.doctor.finding import Context, Finding, ok, warn
from broker.cli.launchers.interface import Launcher
from broker.core.distribution import install_command
from broker.core.parts.absent import needed
from broker.host.vmm.hosttools import (
    VSOCK_COMMANDS,
    find_vhost_device_vsock,
    kernel_vsock_usable,
)
from policy.records.model import (
    LibvirtPeer,
    MachinePeer,
    Record,
    UnixPeer,
    is_of_others,
)
from shims.bundle import BundleError, minimal_agent

VHOST_VSOCK = Path("/dev/vhost-vsock")
HOOKS = Path("/etc/libvirt/hooks")
MACHINED = Path("/run/systemd/machine/io.systemd.Machine")
LIBRARIES = Path("/usr")
_DRIVERS = "libvirt/connection-driver/libvirt_driver_{}.so"
_INSTALL_HOOK = "sudo brokerctl launcher install libvirt"


async def _check(context: Context, records: Sequence[Record]) -> list[Finding]:
    """Check what records of externally started sandboxes need."""
    launches = [record.host.launch for record in records]
    peers = {type(launch.peer) for launch in launches if is_of_others(launch)}
    return [
        *(_libvirt(context) if LibvirtPeer in peers else ()),
        *(_machined() if MachinePeer in peers else ()),
        *(_minimal_agent() if peers - {MachinePeer, UnixPeer} else ()),
    ]


def _libvirt(context: Context) -> Iterator[Finding]:
    """Yield findings about libvirt: virsh, drivers, hook."""
    path = context.environ.get("PATH", os.defpath)
    if shutil.which("virsh", path=path) is None:
        text = "records name domains of libvirt, but virsh is not installed"
        yield warn("launchers", text, install_command("libvirt-clients"))
    yield from _drivers()
    with needed("leasing domains of libvirt"):
        from broker.host.launchers.libvirt.hook import hook_program, hook_source

    hook = hook_program(HOOKS)
    if not os.access(hook, os.X_OK):
        text = f"records name domains of libvirt, but {hook} is missing: leases cannot begin"
        yield warn("launchers", text, _INSTALL_HOOK)
    elif hook.read_bytes() != hook_source():
        text = f"{hook} is from another version of Vitrail"
        yield warn("launchers", text, _INSTALL_HOOK)
    usable = kernel_vsock_usable(VHOST_VSOCK)
    if not usable and find_vhost_device_vsock(context.paths) is None:
        # The system's libvirtd opens the device as root.
        whose = " of qemu:///session" if VHOST_VSOCK.exists() else ""
        text = f"domains{whose} cannot have a vsock without access to {VHOST_VSOCK}, or vhost-device-vsock"
        yield warn("launchers", text, VSOCK_COMMANDS)


def _drivers() -> Iterator[Finding]:
    """Check the drivers of libvirt for machines and for containers."""
    found = {
        kind
        for kind in ("qemu", "lxc")
        for folder in ("lib*", "lib/*-linux-gnu*")
        if any(LIBRARIES.glob(f"{folder}/{_DRIVERS.format(kind)}"))
    }
    if not found:
        text = "records name domains of libvirt, but no driver of libvirt is installed"
        mend = install_command("libvirt-daemon-driver-qemu")
        mend += "; for containers, " + install_command("libvirt-daemon-driver-lxc")
        yield warn("launchers", text, mend)
    elif found == {"qemu"}:
        text = "libvirt's driver for containers is not installed; to install it, run"
        mend = install_command("libvirt-daemon-driver-lxc")
        yield ok("launchers", f"{text} '{mend}'")


def _minimal_agent() -> Iterator[Finding]:
    """Say whether guests without Python can have an agent."""
    try:
        size = len(minimal_agent())
    except BundleError as error:
        text = f"guests without Python cannot have an agent: {error}"
        yield warn("launchers", text, install_command("gcc", "python3-dev"))
        return
    text = f"guests without Python can have the agent in C ({size >> 10} KiB)"
    yield ok("launchers", f"{text}: 'brokerctl guest install --minimal'")


def _machined() -> Iterator[Finding]:
    """Yield findings about systemd-machined."""
    if not MACHINED.exists():
        text = f"records name machines of systemd-machined, but {MACHINED} is missing"
        yield warn(
            "launchers",
            text,
            install_command("systemd-container") + " (257 or later)",
        )
    if not VHOST_VSOCK.exists():
        text = (
            f"records name machines of systemd-machined, but {VHOST_VSOCK} is missing"
        )
        yield warn("launchers", text, "sudo modprobe vhost_vsock")


LAUNCHER = Launcher(check=_check)
