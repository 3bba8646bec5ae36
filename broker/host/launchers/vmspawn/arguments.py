"""systemd-vmspawn's arguments for a machine of a record (systemd-vmspawn(1)).

Only brokerctl runs this, with the user's rights: it prepares words, and starts nothing.

It boots our image as a micro VM does, with a copy of its disk that is gone with
the machine.  vmspawn starts QEMU and lets the guest run at once; a guest must not run
before its lease.  So the first QEMU on vmspawn's PATH is a shell that waits at a FIFO
and then becomes QEMU, with the same process id and command line.

Pure: a description in, words out.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from broker.host.vmm.image_boot import ImageBoot

GATES = ("qemu", "qemu-system-x86_64")
"""vmspawn takes the first of several names; these come first."""
# guard: the image is the same after a machine of vmspawn
_DISK = ("--ephemeral",)
_CONFINED = (
    *("--quiet", "--user", "--register=no", "--keep-unit", "--notify-ready=no"),
    *("--tpm=no", "--firmware=none", "--pass-ssh-key=no", "--console=headless"),
    *_DISK,
)
_KERNEL_WORDS = ("root=/dev/vda", "ro", "panic=-1", "quiet")
_SCOPE = ("systemd-run", "--user", "--scope", "--quiet", "--collect", "--")


@dataclass(frozen=True)
class Spawned:
    """A machine to be made."""

    machine: str
    boot: ImageBoot
    cid: int | None = None
    """Of the kernel's vsock; None: that of ``vhost_user``."""
    vhost_user: Path | None = None


def vmspawn_args(spec: Spawned) -> list[str]:
    """Return the command line: in a scope of the user's systemd, as vmspawn needs."""
    boot = spec.boot
    kvm = "yes" if boot.accel.uses_kvm else "no"
    vsock = ["--vsock=no"]
    if spec.cid is not None:
        vsock = ["--vsock=yes", f"--vsock-cid={spec.cid}"]
    return [
        *_SCOPE,
        *("systemd-vmspawn", *_CONFINED),
        *(f"--machine={spec.machine}", f"--uuid={boot.uuid}"),
        *(f"--kvm={kvm}", f"--ram={boot.memory_mib}M", f"--cpus={boot.cpus}"),
        *vsock,
        *(f"--image={boot.root}", f"--linux={boot.kernel}", f"--initrd={boot.initrd}"),
        *(*_KERNEL_WORDS, *boot.kernel_args),
    ]


def qemu_extra(spec: Spawned) -> str:
    """Return ``SYSTEMD_VMSPAWN_QEMU_EXTRA``: QEMU's arguments for a vsock, if any."""
    if spec.vhost_user is None:
        return ""
    memory = f"memory-backend-memfd,id=shared,size={spec.boot.memory_mib}M,share=on"
    words = (
        *("-object", memory, "-machine", "memory-backend=shared"),
        *("-chardev", f"socket,id=vsock,path={spec.vhost_user}"),
        *("-device", "vhost-user-vsock-pci,chardev=vsock"),
    )
    return shlex.join(words)


def gate_script(fifo: Path, qemu: Path) -> str:
    """Return the program that vmspawn starts as QEMU."""
    # The end of the FIFO's last writer, a command that died, opens nothing.
    # guard: a machine of vmspawn waits for its lease
    opened = f'read -r go < {shlex.quote(str(fifo))} && [ "$go" = go ]'
    return f'#!/bin/sh\n{opened} && exec {shlex.quote(str(qemu))} "$@"\n'
