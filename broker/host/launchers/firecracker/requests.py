"""Requests to Firecracker, in order, and its replies.  Pure.

Source: src/firecracker/swagger/firecracker.yaml of the project (version 1.17).
Each request but ``START`` only notes something; ``InstanceStart`` opens the files and
runs the guest.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import msgspec

from broker.core import limits
from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError, UpstreamError
from broker.core.escape import printable
from broker.host.vmm.monitors.http import VmmReply, VmmRequest
from broker.host.vmm.qemu_arguments import VmSpec, agent_args

HOME_DEVICE = "vdb"
"""Drives are attached in the order in which they are put, the root device first;
Firecracker has no serial number of our choice by which the guest could look."""

_OFF = "vitrail.off=reset"
"""Firecracker ends when the guest resets itself, and not when it switches off."""


class InstanceState(StrEnum):
    """The states of a machine."""

    NOT_STARTED = "Not started"
    RUNNING = "Running"
    PAUSED = "Paused"


class _Instance(msgspec.Struct):
    """``InstanceInfo``; further fields are ignored."""

    state: InstanceState


class _Fault(msgspec.Struct):
    """``Error``."""

    fault_message: str


INFO = VmmRequest("GET", "/")
START = VmmRequest("PUT", "/actions", {"action_type": "InstanceStart"})
PRESS_POWER = VmmRequest("PUT", "/actions", {"action_type": "SendCtrlAltDel"})
RESUME = VmmRequest("PATCH", "/vm", {"state": "Resumed"})


def arguments(program: Path, api: Path, name: str) -> list[str]:
    """Return Firecracker's command line; it starts without a machine."""
    words = ("--api-sock", str(api), "--id", name, "--level", "Error")
    return [str(program), *words]


def check(spec: VmSpec) -> None:
    """Raise SetupError for settings of the record that Firecracker does not support."""
    if spec.cpus > limits.FIRECRACKER_CPUS:
        raise SetupError(
            f"cannot start '{spec.name}': Firecracker does not support {spec.cpus} processors",
            hint=f"set cpus in [launch] of its record to at most {limits.FIRECRACKER_CPUS}",
        )


def kernel_args(spec: VmSpec) -> str:
    """Return the kernel's command line; Firecracker adds the root device's words."""
    words = ["console=ttyS0", "reboot=k", "panic=-1", "quiet", _OFF]
    if spec.home is not None:
        words.append(f"vitrail.disk={HOME_DEVICE}")
    return " ".join((*words, *agent_args(spec), *spec.kernel_args))


def configuration(spec: VmSpec, *, cid: int, uds: Path) -> Iterator[VmmRequest]:
    """Yield the requests of Firecracker's API that configure a machine."""
    machine = {"vcpu_count": spec.cpus, "mem_size_mib": spec.memory_mib}
    yield VmmRequest("PUT", "/machine-config", machine)
    boot = {
        "kernel_image_path": str(spec.kernel),
        "initrd_path": str(spec.initrd),
        "boot_args": kernel_args(spec),
    }
    yield VmmRequest("PUT", "/boot-source", boot)
    if spec.root is not None:
        # guard: Firecracker's root disk is read-only
        yield _drive("root", spec.root, root=True, read_only=True)
    if spec.home is not None:
        yield _drive("home", spec.home.path, root=False, read_only=False)
    vsock = {"guest_cid": cid, "uds_path": str(uds)}
    yield VmmRequest("PUT", "/vsock", vsock)
    for tap, seat in spec.taps:
        body = {"iface_id": tap, "host_dev_name": tap}
        body |= {"guest_mac": seat.mac} if seat else {}
        yield VmmRequest("PUT", f"/network-interfaces/{tap}", body)
    yield VmmRequest("PUT", "/entropy", {})


def _drive(name: str, path: Path, *, root: bool, read_only: bool) -> VmmRequest:
    """Return the request that adds a disk."""
    body = {
        "drive_id": name,
        "path_on_host": str(path),
        "is_root_device": root,
        "is_read_only": read_only,
        # "Unsafe" ignores the guest's flushes: right for a disk that is only read.
        "cache_type": "Unsafe" if read_only else "Writeback",
    }
    return VmmRequest("PUT", f"/drives/{name}", body)


def require_done(request: VmmRequest, reply: VmmReply) -> None:
    """Raise UpstreamError with Firecracker's message if a request failed."""
    if reply.done:
        return
    try:
        fault = msgspec.json.decode(reply.body, type=_Fault).fault_message
        text = printable(fault, 300)
    except UNREADABLE:
        text = reply.text()
    raise UpstreamError(f"Firecracker rejected {request} ({reply.status}): {text}")


def read_state(reply: VmmReply) -> InstanceState:
    """Return the machine's state from the reply to ``INFO``.  Raises UpstreamError."""
    require_done(INFO, reply)
    try:
        return msgspec.json.decode(reply.body, type=_Instance).state
    except UNREADABLE as error:
        raise UpstreamError(f"Firecracker sent an invalid state: {error}") from error
