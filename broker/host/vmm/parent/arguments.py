"""QEMU's command line for machines that are copied: a parent, and its copies.

Both have the same devices at the same addresses; a copy differs in its memory, its
descriptors, the generation id and ``-incoming``, and has no kernel to load: the running
one is in its memory, and QEMU would keep the file's 11 MiB for the firmware.  Devices whose state cannot be
saved (vhost-user) or must not be shared (a network card with its address) are in
neither: they are plugged into the root ports of a copy, as is its arena.

Machines that share their parent's memory have a second virtio-serial port in the
place of a vsock device, and no device by which memory is freed: QEMU would punch
holes into the parent, and the guest chooses where.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

from broker.core.errors import SetupError
from broker.core.names import SandboxName
from broker.host.vmm.parent.parent_messages import PORT
from broker.host.vmm.port_mux import BATCH_WORD, KERNEL_WORD, port_words
from broker.host.vmm.qemu_arguments import (
    FORKABLE,
    Accel,
    VmSpec,
    base_args,
    free_page_args,
    listener_args,
    memory_device_args,
    memory_size,
    root_args,
    translated_mib,
)

VSOCK_SLOT = "hot0"
NIC_SLOT = "hot1"
ARENA_SLOT = "hot2"
_SHARING = MappingProxyType(
    {
        "-device": frozenset(
            {
                *("virtio-blk-pci", "virtio-serial-pci", "virtserialport"),
                *("virtio-rng-pci", "vmgenid", "pcie-root-port"),
            }
        ),
        "-object": frozenset({"memory-backend-file", "rng-builtin"}),
    }
)
"""What a machine that shares memory may have, by QEMU's option."""
_LOADED = ("-incoming", "defer")
_WARM_CHARS = 700
"""The kernel's command line has 2048 characters on x86."""


@dataclass(frozen=True)
class ForkWiring:
    """The words in which a parent and its copies differ."""

    memory_fd: int
    """The guest's memory: a file of the parent's, a memfd of a copy."""
    generation: str
    """A UUID; the guest's kernel draws its keys again when it changes."""
    port_fd: int
    """A connected socket: the port for the identity."""
    serial: Sequence[str]
    """Words of the chardevs ``qmp`` and ``console``."""
    extra: Sequence[str] = ()
    streams_fd: int | None = None
    """A connected socket: the port for the streams of machines that share memory."""
    private: bool = False
    """The memory is a parent's, which is mapped copy-on-write."""
    incoming: bool = False
    """A copy: its state is loaded, and nothing boots."""


def forkable_args(
    spec: VmSpec, qemu: Path, accel: Accel, wiring: ForkWiring, warm: Sequence[str]
) -> list[str]:
    """Return the command line; the machine starts paused (``-S``).

    Raises SetupError for a machine that shares memory and has a device that could
    free it.
    """
    arguments = [
        *base_args(
            qemu,
            accel,
            name=f"vitrail-{spec.name}",
            translated_mib=translated_mib(spec.memory_mib),
            machine=FORKABLE[accel],
        ),
        "-S",
        *("-smp", str(spec.cpus)),
        *("-m", memory_size(spec.memory_mib, spec.memory_devices)),
        *("-object", _memory(spec, wiring)),
        *("-machine", "memory-backend=mem"),
        *(_LOADED if wiring.incoming else _boot(spec, accel, warm, wiring)),
        *wiring.serial,
        *("-mon", "chardev=qmp,mode=control"),
        *("-serial", "chardev:console"),
        *([] if spec.root is None else root_args(spec.root, "pci", ",addr=0x2")),
        *_ports(wiring),
        *_random_words(),
        *("-device", f"vmgenid,id=generation,guid={wiring.generation}"),
        *_slot(VSOCK_SLOT, 1, "0x5"),
        *_slot(NIC_SLOT, 2, "0x6"),
        *(_slot(ARENA_SLOT, 3, "0x8") if spec.arena_bytes else ()),
        *wiring.extra,
    ]
    if wiring.streams_fd is None:
        # A parent's memory and that of each copy are separate files.
        return arguments + free_page_args("pci", ",addr=0x7")
    # guard: no machine that shares memory has a device that frees it
    refuse_freeing(arguments)
    return arguments


def _random_words() -> Iterator[str]:
    """Yield QEMU's words for the source of random numbers.

    QEMU fills a buffer of its own for each request, as large as the guest says, up to
    4 GiB, and does nothing else meanwhile.
    """
    yield from ("-object", "rng-builtin,id=rng")
    device = "virtio-rng-pci,rng=rng,addr=0x4"
    # guard: a guest has few random numbers drawn at once
    device += ",max-bytes=1024,period=100"
    yield from ("-device", device)


def _boot(
    spec: VmSpec, accel: Accel, warm: Sequence[str], wiring: ForkWiring
) -> list[str]:
    """Return QEMU's words for kernel, initrd and kernel arguments."""
    return [
        *("-kernel", str(spec.kernel)),
        *("-initrd", str(spec.initrd)),
        *("-append", _kernel_args(spec, accel, warm, wiring)),
    ]


def _memory(spec: VmSpec, wiring: ForkWiring) -> str:
    # guard: a machine does not write into its parent
    share = "off,merge=off" if wiring.private else "on"
    path = f"/proc/self/fd/{wiring.memory_fd}"
    size = f"size={spec.memory_mib}M"
    return f"memory-backend-file,id=mem,{size},mem-path={path},share={share}"


def _ports(wiring: ForkWiring) -> Iterator[str]:
    """Yield QEMU's words for the serial ports."""
    ports = 1 if wiring.streams_fd is None else 2
    yield from ("-device", f"virtio-serial-pci,id=ser,max_ports={ports + 1},addr=0x3")
    yield from ("-chardev", f"socket,id=port,fd={wiring.port_fd}")
    yield from ("-device", f"virtserialport,bus=ser.0,nr=1,chardev=port,name={PORT}")
    if wiring.streams_fd is not None:
        yield from port_words(wiring.streams_fd, "ser.0", 2)


def refuse_freeing(words: Sequence[str]) -> None:
    """Raise SetupError for a device or object that is not known to leave memory alone.

    With a balloon a guest frees pages of its parent, and with them those of all its
    siblings.  A process of a vhost-user device maps the parent, not the machine's
    memory.
    """
    for option, word in pairwise(words):
        kind = word.partition(",")[0]
        if option in _SHARING and kind not in _SHARING[option]:
            raise SetupError(f"a machine that shares memory does not support '{kind}'")


def _slot(name: str, number: int, address: str) -> list[str]:
    words = f"pcie-root-port,id={name},chassis={number},slot={number},addr={address}"
    return ["-device", words]


def _kernel_args(
    spec: VmSpec, accel: Accel, warm: Sequence[str], wiring: ForkWiring
) -> str:
    """Return the kernel's arguments."""
    words = ["console=ttyS0", "panic=-1", "reboot=t", "quiet"]
    words += [*FORKABLE[accel].kernel_args, "vitrail.parent=1"]
    words += memory_device_args(
        shared_image=spec.shared_image_bytes > 0, arena=spec.arena_bytes > 0
    )
    if wiring.streams_fd is not None:
        words.append(KERNEL_WORD)
        if accel is Accel.TCG:
            words.append(BATCH_WORD)
    packed = base64.urlsafe_b64encode(json.dumps(list(warm)).encode()).decode("ascii")
    if warm and len(packed) <= _WARM_CHARS:
        words.append(f"vitrail.warm={packed}")
    return " ".join((*words, *spec.kernel_args))


def key_words(
    spec: VmSpec, qemu: Path, accel: Accel, warm: Sequence[str], *, shared: bool = False
) -> list[str]:
    """Return the words that a parent's key is made of: the same for each copy."""
    plain = Path("file")
    same = replace(
        spec,
        name=SandboxName("parent"),
        # Its directory is the image's; packed and unpacked it is loaded by other
        # firmware, which the parent's state names.
        kernel=Path(spec.kernel.name),
        initrd=plain,
        root=None if spec.root is None else plain,
    )
    streams = 0 if shared else None
    wiring = ForkWiring(0, "none", 0, listener_args("qmp", 0), streams_fd=streams)
    return forkable_args(same, qemu, accel, wiring, warm)
