"""A request to start a machine from a parent, and its result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

from broker.host.vmm.launcher import Tools
from broker.host.vmm.parent.arguments import key_words
from broker.host.vmm.parent.key import ParentInputs
from broker.host.vmm.parent.parent_files import program_identity
from broker.host.vmm.qemu_arguments import Accel, VmSpec
from broker.host.vmm.running import Vm
from shims.bundle import guest_agent

CPU_INFO = Path("/proc/cpuinfo")
_CPU_LINES = frozenset(
    {
        *("vendor_id", "cpu family", "model", "model name", "stepping"),
        *("microcode", "flags", "bugs"),
    }
)
"""What proc_cpuinfo(5) says that is the same until the next boot or microcode."""


@dataclass(frozen=True)
class StartRequest:
    """A machine to be started: ``mode`` is the record's ``launch.fork``."""

    record: str
    mode: Literal["shared", "copy", "no"]
    image: str
    """Digest of the image; the agent that is booted is ours."""
    write_initrd: Callable[[Path], Path]
    """Writes the initramfs with that agent into a directory; returns its path."""
    warm: Sequence[str]
    """The record's program: run once in a parent, so that it is in memory."""
    spec: VmSpec
    tools: Tools
    standby_mib: int = 0
    """Memory that waiting machines may have, this record's included, in MiB.  0: none
    of this record waits."""

    @property
    def shared(self) -> bool:
        """Return whether the machine's memory is that of its parent."""
        return self.mode == "shared"


@dataclass(frozen=True)
class StartedVm:
    """A machine that is started and paused.  ``why`` it did not come up faster."""

    vm: Vm
    how: Literal["standby", "fork", "copy", "boot"]
    """``fork``: its memory is its parent's, copied where it writes."""
    why: str = ""


def parent_key(request: StartRequest) -> str:
    """Return the key of the parent from which this machine can be copied."""
    spec, tools = request.spec, request.tools
    return ParentInputs(
        record=request.record,
        image=request.image,
        agent=hashlib.sha256(guest_agent()).hexdigest(),
        qemu=program_identity(tools.vmm),
        words=key_words(
            spec, tools.vmm, tools.accel, request.warm, shared=request.shared
        ),
        host=_host() if tools.accel is not Accel.TCG else "",
        mode=request.mode,
    ).key()


# guard: a parent under KVM is one of this processor and kernel
def _host() -> str:
    """Return this machine's kernel and processor as text, for a parent's key.

    A guest's kernel chooses its mitigations when it boots, by the flags and the
    microcode that it sees then; a copy of it would run without those of a later one.
    """
    with CPU_INFO.open(encoding="utf-8") as file:
        # Of the first processor: the kernel asks each one that is read.
        first = takewhile(str.strip, file)
        lines = [line for line in first if line.partition("\t")[0] in _CPU_LINES]
    kernel = os.uname()
    return "\n".join([kernel.release, kernel.version, *lines])
