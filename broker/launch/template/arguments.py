"""QEMU's command line for machines that are copied: a template, and its copies.

Both have the same devices at the same addresses; a copy differs in its memory, its
descriptors, the generation id and ``-incoming``.  Devices whose state cannot be
saved (vhost-user) or must not be shared (a network card with its address) are in
neither: they are plugged into the two root ports of a copy.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from broker.core.names import SandboxName
from broker.launch.microvm.qemu_arguments import (
    MACHINES,
    Accel,
    VmSpec,
    base_args,
    free_page_args,
    listener_args,
    root_args,
)
from broker.launch.template.identity import PORT

VSOCK_SLOT = "hot0"
NIC_SLOT = "hot1"
_WARM_CHARS = 700
"""The kernel's command line has 2048 characters on x86."""


@dataclass(frozen=True)
class ForkWiring:
    """The words in which a template and its copies differ."""

    memory_fd: int
    """The guest's memory: a file of the template's, a memfd of a copy."""
    generation: str
    """A UUID; the guest's kernel draws its keys again when it changes."""
    port_fd: int
    """A connected socket: the port for the identity."""
    serial: Sequence[str]
    """Words of the chardevs ``qmp`` and ``console``."""
    extra: Sequence[str] = ()


def forkable_args(
    spec: VmSpec, qemu: Path, accel: Accel, wiring: ForkWiring, warm: Sequence[str]
) -> list[str]:
    """Return the command line; the machine starts paused (``-S``)."""
    memory = f"{spec.memory_mib}M"
    path = f"/proc/self/fd/{wiring.memory_fd}"
    return [
        *base_args(qemu, accel, name=f"vitrail-{spec.name}"),
        "-S",
        *("-smp", str(spec.cpus)),
        *("-m", memory),
        "-object",
        f"memory-backend-file,id=mem,size={memory},mem-path={path},share=on",
        *("-machine", "memory-backend=mem"),
        *("-kernel", str(spec.kernel)),
        *("-initrd", str(spec.initrd)),
        *("-append", _kernel_args(spec, accel, warm)),
        *wiring.serial,
        *("-mon", "chardev=qmp,mode=control"),
        *("-serial", "chardev:console"),
        *([] if spec.root is None else root_args(spec.root, "pci", ",addr=0x2")),
        *("-device", "virtio-serial-pci,id=ser,max_ports=2,addr=0x3"),
        *("-chardev", f"socket,id=port,fd={wiring.port_fd}"),
        *("-device", f"virtserialport,bus=ser.0,nr=1,chardev=port,name={PORT}"),
        *("-object", "rng-builtin,id=rng"),
        *("-device", "virtio-rng-pci,rng=rng,addr=0x4"),
        *("-device", f"vmgenid,id=generation,guid={wiring.generation}"),
        *_slot(VSOCK_SLOT, 1, "0x5"),
        *_slot(NIC_SLOT, 2, "0x6"),
        # A template's memory and that of each copy are files of their own.
        *free_page_args("pci", ",addr=0x7"),
        *wiring.extra,
    ]


def _slot(name: str, number: int, address: str) -> list[str]:
    words = f"pcie-root-port,id={name},chassis={number},slot={number},addr={address}"
    return ["-device", words]


def _kernel_args(spec: VmSpec, accel: Accel, warm: Sequence[str]) -> str:
    words = ["console=ttyS0", "panic=-1", "reboot=t", "quiet"]
    words += [*MACHINES[accel].kernel_args, "vitrail.template=1"]
    packed = base64.urlsafe_b64encode(json.dumps(list(warm)).encode()).decode("ascii")
    if warm and len(packed) <= _WARM_CHARS:
        words.append(f"vitrail.warm={packed}")
    return " ".join((*words, *spec.kernel_args))


def key_words(spec: VmSpec, qemu: Path, accel: Accel, warm: Sequence[str]) -> list[str]:
    """Return the words that a template's key is made of: the same for each copy."""
    plain = Path("file")
    same = replace(
        spec,
        name=SandboxName("template"),
        kernel=plain,
        initrd=plain,
        root=None if spec.root is None else plain,
    )
    wiring = ForkWiring(0, "none", 0, listener_args("qmp", 0))
    return forkable_args(same, qemu, accel, wiring, warm)
