"""A request to start a machine from a template, and its result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.launch.microvm.launcher import Tools, Vm, VmSpec
from broker.launch.template.arguments import key_words
from broker.launch.template.key import TemplateInputs
from broker.launch.template.store import program_identity
from shims.bundle import guest_agent


@dataclass(frozen=True)
class StartRequest:
    """A machine to be started: ``mode`` is the record's ``launch.fork``."""

    record: str
    mode: Literal["shared", "copy", "no"]
    image: str
    """Digest of the image; the agent that is booted is the one that we ship."""
    write_initrd: Callable[[Path], Path]
    """Writes the initramfs with that agent into a directory; returns its path."""
    warm: Sequence[str]
    """The record's program: run once in a template, so that it is in memory."""
    spec: VmSpec
    tools: Tools
    standby_mib: int = 0
    """Memory that waiting machines may have, this record's included, in MiB.  0: none
    of this record waits."""

    @property
    def shared(self) -> bool:
        """Whether the machine's memory is that of its template."""
        return self.mode == "shared"


@dataclass(frozen=True)
class StartedVm:
    """A machine that is started and paused.  ``why`` it did not come up faster."""

    vm: Vm
    how: Literal["standby", "fork", "copy", "boot"]
    """``fork``: its memory is its template's, copied where it writes."""
    why: str = ""


def template_key(request: StartRequest) -> str:
    """Return the key of the template from which this machine can be copied."""
    spec, tools = request.spec, request.tools
    return TemplateInputs(
        record=request.record,
        image=request.image,
        agent=hashlib.sha256(guest_agent()).hexdigest(),
        qemu=program_identity(tools.vmm),
        words=key_words(
            spec, tools.vmm, tools.accel, request.warm, shared=request.shared
        ),
        mode=request.mode,
    ).key()
