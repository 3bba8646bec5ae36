"""The key of a parent: equal only where a copy of it would run.

QEMU notices another machine type or memory size when it loads a state, but not
another CPU model (the copy loads, and then nothing happens) nor another root image
(blocks that the guest holds in memory and those of the disk disagree).  So
everything that matters goes into our digest, and QEMU's errors are only the
second wall.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

FORMAT = 1
"""Of the stored files and of the identity's protocol."""


@dataclass(frozen=True)
class ParentInputs:
    """Everything that a parent is made of."""

    record: str
    """Its record: no two records share a parent, for siblings share secrets of
    the kernel (addresses, canaries)."""
    image: str
    """Digest of kernel, initramfs and root."""
    agent: str
    """Digest of the guest agent that is booted."""
    qemu: str
    """Identity of the QEMU binary."""
    words: Sequence[str]
    """QEMU's command line without descriptors, paths of sockets and memory:
    machine, CPU model, memory, processors, devices, the kernel's arguments."""
    host: str = ""
    """Under KVM: the host's CPU and kernel."""
    mode: str = "copy"
    """What becomes of its memory: ``copy`` or ``shared``."""

    def key(self) -> str:
        """Return 64 hex digits."""
        fields = {"format": FORMAT, **asdict(self), "words": list(self.words)}
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(b"vitrail parent\n" + text.encode()).hexdigest()
