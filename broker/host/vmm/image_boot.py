"""Our image as booted by a machine that another program starts.

Only brokerctl runs this; it prepares values, and starts nothing.

libvirt (``libvirt.throwaway``) and systemd-vmspawn (``vmspawn.arguments``) describe the
same machine in different words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from broker.host.vmm.qemu_arguments import FORKABLE, Accel


@dataclass(frozen=True)
class ImageBoot:
    """A machine of the image, for one run."""

    uuid: str
    sandbox: str
    """The guest's host name."""
    accel: Accel
    kernel: Path
    initrd: Path
    root: Path
    """Root file system, ext4."""
    memory_mib: int
    cpus: int

    @property
    def kernel_args(self) -> tuple[str, ...]:
        """Words of the kernel's command line that each program adds to its own."""
        # Those of an emulated clock, whatever starts QEMU.
        clock = FORKABLE[self.accel].kernel_args
        return (*clock, f"vitrail.name={self.sandbox}")
