"""What a record promises to a machine that a script starts: values in, words out.

The words of QEMU are those of our own machines (``qemu_arguments``), but a script's QEMU
inherits none of our descriptors: sockets have paths, and a passphrase is read from the
process that holds the home.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.host.vmm.qemu_arguments import (
    ARENA_DEVICE,
    HomeDisk,
    arena_object,
    bus_args,
    folder_args,
    home_args,
    memory_args,
    memory_device_args,
    memory_size,
    shared_image_args,
)

# Neither the shell's word splitting nor its patterns (*, ?, [) and no quote is among
# these.  Braces and double quotes are those of JSON: a shell leaves them as they are in
# what an expansion gave.
_PLAIN = re.compile(r'[A-Za-z0-9_./:=@%+,{}"-]+')


@dataclass(frozen=True)
class ScriptMachine:
    """What a record promises to a machine that a script starts."""

    name: str
    memory_mib: int
    huge_pages: bool = False
    backend: Path | None = None
    """Where vhost-device-vsock waits for QEMU; None: the kernel's vsock, or the VMM's."""
    uds: Path | None = None
    """The hybrid-vsock socket."""
    cid: int = 3
    image: Path | None = None
    """The root file system that machines map."""
    image_bytes: int = 0
    home: HomeDisk | None = None
    folders: tuple[Path, ...] = ()
    """Where the virtiofsd of each place waits for QEMU."""
    arena_bytes: int = 0
    arena: int = -1
    """The arena's descriptor, in the process ``holder``."""
    holder: str = "self"

    def kernel_words(self) -> str:
        """Return words for the command line of a kernel whose guest has our agent."""
        words = [f"vitrail.name={self.name}"]
        if self.home is not None:
            words.append(f"vitrail.keep={','.join(sorted(self.home.keep))}")
        words += memory_device_args(
            shared_image=self.image is not None, arena=self.arena_bytes > 0
        )
        return " ".join(words)


def qemu_words(machine: ScriptMachine, bus: str = "pci") -> list[str]:
    """Return QEMU's words; ``bus`` is that of virtio devices, ``pci`` or ``device``.

    Raises RefusedError for an image or an arena as memory without a PCI bus.
    """
    devices: list[int] = []
    words: list[str] = []
    if machine.image is not None:
        _require_pci(machine, bus, "share the image", "shared_image")
        devices.append(machine.image_bytes)
        words += shared_image_args(machine.image, machine.image_bytes)
    if machine.arena_bytes:
        _require_pci(machine, bus, "share an arena", "pixel_arena")
        devices.append(machine.arena_bytes)
        words += arena_object(machine.arena, machine.arena_bytes, machine.holder)
        words += ARENA_DEVICE
    if machine.home is not None:
        # Nobody would let a stopped machine of a script go on.
        words += home_args(machine.home, bus, full="report")
    if machine.backend is not None:
        path = escape_option(str(machine.backend))
        words += ["-chardev", f"socket,id=vsock,path={path}"]
        words += ["-device", f"vhost-user-vsock-{bus},chardev=vsock"]
    else:
        words += ["-device", f"vhost-vsock-{bus},guest-cid={machine.cid}"]
    for place, socket in enumerate(machine.folders):
        words += folder_args(place, f"path={escape_option(str(socket))}", bus)
    return [
        *bus_args(bus),
        *("-m", memory_size(machine.memory_mib, devices)),
        *memory_args(
            machine.memory_mib,
            huge_pages=machine.huge_pages,
            shared=machine.backend is not None or bool(machine.folders),
        ),
        *words,
    ]


def _require_pci(machine: ScriptMachine, bus: str, what: str, key: str) -> None:
    if bus != "pci":
        raise RefusedError(
            f"cannot {what} of '{machine.name}': QEMU's microvm machine has no "
            "memory devices (virtio-pmem)",
            hint=f"use '-machine q35' and '--bus pci', or remove {key} from the record",
        )


def escape_option(value: str) -> str:
    """Return a value of one of QEMU's options: a comma in it is written twice."""
    # guard: a path ends no option of QEMU
    return value.replace(",", ",,")


def split_words(words: Sequence[str]) -> str:
    """Return words in one line that a shell splits at spaces into the same ones.

    Raises RefusedError for a word that it would split or expand.
    """
    for word in words:
        # guard: a path is one word to the shell
        if not _PLAIN.fullmatch(word):
            raise RefusedError(
                f"cannot print the argument {printable(word, 200)}: it has a "
                "character that a shell splits or expands",
                hint="use paths of letters, digits and _./:=@%+,- in the record and "
                "for homes and images; or read the words with --format json",
            )
    return " ".join(words)


def firecracker_configuration(machine: ScriptMachine) -> dict[str, object]:
    """Return the parts of Firecracker's configuration file that the record promises.

    Source: docs/getting-started.md and src/firecracker/swagger of the project.
    """
    refuse_what_lacks(machine, "Firecracker", kernel_vsock=False)
    settings: dict[str, object] = {"mem_size_mib": machine.memory_mib}
    if machine.huge_pages:
        settings["huge_pages"] = "2M"
    made: dict[str, object] = {
        "machine-config": settings,
        "vsock": {"guest_cid": machine.cid, "uds_path": str(machine.uds)},
    }
    if machine.home is not None:
        made["drives"] = [
            {
                "drive_id": "home",
                "path_on_host": str(machine.home.path),
                "is_root_device": False,
                "is_read_only": False,
                "cache_type": "Writeback",
            }
        ]
    return made


def refuse_what_lacks(
    machine: ScriptMachine, what: str, *, disk: bool = True, kernel_vsock: bool = True
) -> None:
    """Raise RefusedError for what a VMM other than a script's QEMU does not have."""
    lacks = ""
    if machine.home is not None and not disk:
        # Nothing would hold the home's lock while the domain runs.
        lacks = "the home of [state]"
    elif machine.home is not None and machine.home.key >= 0:
        lacks = "an encrypted home"
    elif machine.image is not None:
        lacks = "shared_image"
    elif machine.arena_bytes:
        lacks = "pixel_arena"
    elif machine.folders:
        lacks = "folders ([folders], folders in [launch])"
    elif not kernel_vsock and machine.uds is None:
        lacks = "a vsock context ID of the kernel: set hybrid in [peer]"
    elif kernel_vsock and machine.uds is not None:
        # Nothing would serve its socket once libvirt starts the machine.
        lacks = "a hybrid socket: set libvirt or cid in [peer]"
    if lacks:
        raise RefusedError(
            f"cannot print the configuration of '{machine.name}' for {what}, which "
            f"cannot have {lacks}",
            hint="start it with QEMU (--format qemu), or remove the key from the "
            "record",
        )


def as_json(machine: ScriptMachine, bus: str, lease: str) -> str:
    """Return QEMU's words and the kernel's as one JSON object."""
    made = {
        "sandbox": machine.name,
        "lease": lease,
        "qemu": qemu_words(machine, bus),
        "kernel": machine.kernel_words(),
        "hybrid": None if machine.uds is None else str(machine.uds),
    }
    return json.dumps(made) + "\n"
