"""Requests to Cloud Hypervisor, and its replies.  Pure.

Source: vmm/src/api/openapi/cloud-hypervisor.yaml of the project (API version 0.3).
``vm.create`` notes the whole machine, ``vm.boot`` opens the files and runs the guest.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import UpstreamError
from broker.host.vmm.monitors.http import VmmReply, VmmRequest
from broker.host.vmm.qemu_arguments import HOME_SERIAL, VmSpec, agent_args

_API = "/api/v1"
_MIB = 1 << 20


class VmStatus(StrEnum):
    """The states of a machine."""

    CREATED = "Created"
    RUNNING = "Running"
    SHUTDOWN = "Shutdown"
    PAUSED = "Paused"
    BREAK_POINT = "BreakPoint"


class _Info(msgspec.Struct):
    """``VmInfo``; further fields are ignored."""

    state: VmStatus


INFO = VmmRequest("GET", f"{_API}/vm.info")
BOOT = VmmRequest("PUT", f"{_API}/vm.boot")
RESUME = VmmRequest("PUT", f"{_API}/vm.resume")
PRESS_POWER = VmmRequest("PUT", f"{_API}/vm.power-button")
QUIT = VmmRequest("PUT", f"{_API}/vmm.shutdown")


def arguments(program: Path, api: Path) -> list[str]:
    """Return Cloud Hypervisor's command line; it starts without a machine."""
    return [str(program), "--api-socket", f"path={api}"]


def kernel_args(spec: VmSpec) -> str:
    """Return the kernel's command line."""
    words = ["console=ttyS0", "panic=-1", "quiet"]
    return " ".join((*words, *agent_args(spec), *spec.kernel_args))


def create(spec: VmSpec, *, cid: int, uds: Path) -> VmmRequest:
    """Return the request of Cloud Hypervisor's API that creates a machine."""
    disks: list[dict[str, object]] = []
    if spec.root is not None:
        # guard: Cloud Hypervisor's root disk is read-only
        disks.append(_disk(spec.root, "vitrail-root", read_only=True))
    if spec.home is not None:
        disks.append(_disk(spec.home.path, HOME_SERIAL, read_only=False))
    body: dict[str, object] = {
        "cpus": {"boot_vcpus": spec.cpus, "max_vcpus": spec.cpus},
        "memory": {"size": spec.memory_mib * _MIB},
        "payload": {
            "kernel": str(spec.kernel),
            "initramfs": str(spec.initrd),
            "cmdline": kernel_args(spec),
        },
        "disks": disks,
        "vsock": {"cid": cid, "socket": str(uds)},
        # Its standard output, which is our FIFO.
        "serial": {"mode": "Tty"},
        "console": {"mode": "Off"},
        # What the guest has freed goes back to this machine.
        "balloon": {"size": 0, "free_page_reporting": True},
        "rng": {"src": "/dev/urandom"},
    }
    if spec.taps:
        body["net"] = [
            {"tap": tap} | ({"mac": seat.mac} if seat else {})
            for tap, seat in spec.taps
        ]
    return VmmRequest("PUT", f"{_API}/vm.create", body)


def _disk(path: Path, serial: str, *, read_only: bool) -> dict[str, object]:
    """Return the settings of one disk."""
    # Named, because a guest could otherwise write the head of another format into
    # its raw disk, and name one of our files in it.
    # guard: a disk of Cloud Hypervisor is raw whatever it begins with
    format_name = "Raw"
    return {
        "path": str(path),
        "readonly": read_only,
        "serial": serial,
        "image_type": format_name,
    }


def require_done(request: VmmRequest, reply: VmmReply) -> None:
    """Raise UpstreamError with Cloud Hypervisor's message if a request failed.

    Versions differ: the words are plain text, or a JSON array of causes.
    """
    if not reply.done:
        text = f"Cloud Hypervisor rejected {request} ({reply.status}): {reply.text()}"
        raise UpstreamError(text)


def read_state(reply: VmmReply) -> VmStatus:
    """Return the machine's state from the reply to ``INFO``.  Raises UpstreamError."""
    require_done(INFO, reply)
    try:
        return msgspec.json.decode(reply.body, type=_Info).state
    except UNREADABLE as error:
        text = f"Cloud Hypervisor sent an invalid machine state: {error}"
        raise UpstreamError(text) from error
