"""QEMU's command line for one micro VM: values in, words out.

Under a KVM that works the machine is ``microvm`` (fewest devices, fastest
start), or ``q35`` if QEMU lacks that type.  Under TCG it is ``q35``: microvm without
KVM hangs in one of three early boots when it has to calibrate its clock on a loaded
machine, q35 does not, and it starts as fast.

Files are named in JSON (``-blockdev``), so no character of a path means
anything to QEMU's option parser.  Sockets are passed as descriptors: no path
that another process could connect to first, and none to wait for.

The host makes a micro VM's words, brokerctl those of a script; ``doctor`` only reads
values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from broker.core import limits
from broker.core.errors import SetupError
from broker.core.names import SandboxName

if TYPE_CHECKING:
    from broker.host.network.switch.switches import SwitchSeat

HOME_SERIAL = "vitrail-home"
"""Serial number of the home's disk (at most 20 characters): the guest looks for it."""

DISK_PORT = "diskport"
"""Name of the port of a disk that is plugged in later, followed by its number."""

ARENA_DEVICE = ("-device", "virtio-pmem-pci,memdev=arena")

FOLDER_TAG = "vitrail-"
"""Name of a virtiofs device, followed by the number of its place."""


class Accel(StrEnum):
    """How the guest's instructions are run, and on which machine type."""

    KVM = "kvm"
    KVM_Q35 = "kvm-q35"
    """KVM, and a QEMU that lacks the machine type ``microvm``."""
    TCG = "tcg"
    KVM_TYPE = "kvm-type"
    """The machine types of KVM, emulated: for tests."""

    @property
    def uses_kvm(self) -> bool:
        """Return whether QEMU opens /dev/kvm."""
        return self in {Accel.KVM, Accel.KVM_Q35}


class Network(StrEnum):
    """A guest's network: no device at all, or NAT by a process of the user.

    With rules, the process before it carries only the flows that were permitted.
    """

    NONE = "none"
    USER = "user"
    RULES = "rules"

    @classmethod
    def of(cls, text: str) -> Network:
        """Return the network of a ``launch.network``, without a switch's cards."""
        return cls.NONE if ":" in text else cls(text)


@dataclass(frozen=True)
class HomeDisk:
    """The disk with what a persistent sandbox keeps.

    ``keep`` has ``home``; ``lock`` is a descriptor that
    QEMU inherits and ignores: the disk is in use while it is open.
    """

    path: Path
    keep: frozenset[str]
    lock: int
    key: int = -1
    """A descriptor of its passphrase, for QEMU; -1: it is not encrypted."""
    holder: str = "self"
    """The process below /proc that has ``key``: QEMU, or one that outlives it."""


@dataclass(frozen=True)
class VmSpec:
    """One micro VM to be started."""

    name: SandboxName
    kernel: Path
    initrd: Path
    root: Path | None
    """Root file system, ext4, only ever read; None: the initrd is all there is."""
    directory: Path
    """The sandbox's runtime directory; made 0700, emptied of ours at the end."""
    logs: Path
    """Where the console log is kept."""
    memory_mib: int = 768
    cpus: int = 1
    network: Network = Network.NONE
    disposable: bool = True
    """The guest is informed, and a broker that adopts the machine must know."""
    kernel_args: tuple[str, ...] = ()
    home: HomeDisk | None = None
    """None: nothing of it is left when it stops."""
    folders: int = 0
    """Places for the user's folders; each has a separate process."""
    disks: int = 0
    """Places for disks of the user's images, which come once they are permitted."""
    huge_pages: bool = False
    """Its memory is of pages of 2 MiB, which the host has set aside."""
    seats: tuple[SwitchSeat, ...] = ()
    """Its ports at switches; it has a card for each, after that of ``network``."""
    router: bool = False
    """It is the network of others: its user has rights over the guest's network."""
    shared_image_bytes: int = 0
    """Size of the root file system, whose pages all machines of the image share; 0: it
    is a disk."""
    arena_bytes: int = 0
    """Size of the arena for the pixels of its windows; 0: it has none."""
    gpu: bool = False
    """It has a GPU, for which a separate process draws."""

    def __post_init__(self) -> None:
        """Refuse values that QEMU or the kernel would misread.  Raises SetupError."""
        if self.memory_mib not in limits.VM_MEMORY_MIB:
            raise SetupError(
                f"cannot start '{self.name}' with {self.memory_mib} MiB of memory",
                hint=f"set memory to {limits.VM_MEMORY_MIB[0]} to {limits.VM_MEMORY_MIB[-1]} MiB",
            )
        if self.cpus not in limits.VM_CPUS:
            raise SetupError(
                f"cannot start '{self.name}' with {self.cpus} processors",
                hint=f"set cpus to {limits.VM_CPUS[0]} to {limits.VM_CPUS[-1]}",
            )
        for word in self.kernel_args:
            if not word.isascii() or not word.isprintable() or set(word) & set(' "'):
                raise SetupError(f"{self.name}: {word!r} is not a kernel argument")

    def machine(self, accel: Accel) -> MachineType:
        """Return its machine type."""
        # QEMU's microvm has no memory devices, and no bus for devices that come later.
        more = self.memory_devices or self.disks
        return (FORKABLE if more else MACHINES)[accel]

    @property
    def memory_devices(self) -> tuple[int, ...]:
        """Sizes of its devices that are memory, in bytes."""
        return tuple(filter(None, (self.shared_image_bytes, self.arena_bytes)))


@dataclass(frozen=True)
class Wiring:
    """Descriptors and devices that the command line refers to."""

    qmp_fd: int
    console_fd: int
    vsock: Sequence[str]
    """Words of the vsock device without its bus suffix: see ``vsock_backend``."""
    nic_fd: int | None = None
    folder_fds: Sequence[int] = ()
    """A connection to the virtiofsd of each place."""
    kernel_args: tuple[str, ...] = ()
    """Words that the network adds to the kernel's command line."""
    mac: str = "52:54:00:12:34:56"
    arena_fd: int = -1
    gpu_fd: int = -1
    """A connection to its renderer."""


@dataclass(frozen=True)
class MachineType:
    """A machine type and how its virtio devices are called."""

    machine: str
    bus: str
    """Suffix of virtio devices: ``device`` (MMIO) or ``pci``."""
    nic_options: str = ""
    kernel_args: tuple[str, ...] = field(default=())


# Calibrating against a clock that is emulated on a loaded machine takes long or fails;
# its result is of no use to a guest.
_EMULATED_CLOCK = ("tsc_early_khz=2600000", "lpj=4000000", "no_timer_check")
_MICROVM = MachineType("microvm,acpi=on,pic=off,rtc=on", "device")
_Q35 = MachineType("q35,vmport=off,usb=off", "pci", nic_options=",romfile=")
_EMULATED_Q35 = replace(_Q35, kernel_args=_EMULATED_CLOCK)
MACHINES = {
    Accel.KVM: _MICROVM,
    Accel.KVM_Q35: _Q35,
    Accel.TCG: _EMULATED_Q35,
    Accel.KVM_TYPE: replace(_MICROVM, kernel_args=_EMULATED_CLOCK),
}
# QEMU's microvm has neither a PCI bus, whose slots take a copy's devices, nor a
# generation id.
FORKABLE = {accel: _Q35 if accel.uses_kvm else _EMULATED_Q35 for accel in Accel}
"""Machine types of parents and of their copies."""
_KVM_ARGS = ("-accel", "kvm", "-cpu", "host")
# With ERMS a guest copies by "rep movsb", which an emulator runs byte by byte; with
# SMAP, QEMU 7.2 takes a program's own "iret" (Wine's) for the kernel's and it is killed.
_TCG_ARGS = ("-accel", "tcg,thread=multi", "-cpu", "max,-erms,-smap")
_SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def base_args(
    qemu: Path,
    accel: Accel,
    *,
    name: str,
    translated_mib: int = 0,
    machine: MachineType | None = None,
) -> list[str]:
    """Return the arguments with which each QEMU command line begins.

    ``machine``: its type, or that of a machine that boots.
    ``translated_mib``: the most that an emulated machine's translated code takes;
    with 0 as much as QEMU wants, up to a GiB.
    """
    accelerator, how, *cpu = _KVM_ARGS if accel.uses_kvm else _TCG_ARGS
    if not accel.uses_kvm and translated_mib:
        how += f",tb-size={translated_mib}"
    machine = machine or MACHINES[accel]
    return [
        str(qemu),
        *("-name", name),
        *("-machine", machine.machine),
        *bus_args(machine.bus),
        *(accelerator, how, *cpu),
        *("-sandbox", _SECCOMP),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-nographic",
    ]


def bus_args(bus: str) -> list[str]:
    """Return the arguments that the devices of a bus require."""
    # QEMU's virtio over MMIO is the legacy version by default, at which the virtiofsd of
    # Debian 12 ends ("virtio legacy devices aren't supported by libvhost-user").
    # guard: a machine's virtio devices are not legacy ones
    return ["-global", "virtio-mmio.force-legacy=false"] if bus == "device" else []


def kernel_args(spec: VmSpec, accel: Accel, wiring: Wiring) -> str:
    """Return the kernel's command line; the guest agent reads ``vitrail.*``."""
    words = ["console=ttyS0", "panic=-1", "reboot=t", "quiet"]
    words += [*spec.machine(accel).kernel_args, *agent_args(spec)]
    words += memory_device_args(
        shared_image=spec.shared_image_bytes > 0, arena=spec.arena_bytes > 0
    )
    if spec.gpu:
        # Without a screen: the renderer ends itself when a console is shown on one.
        words += ["vitrail.gpu=1", "video=Virtual-1:d"]
    return " ".join((*words, *wiring.kernel_args, *spec.kernel_args))


def memory_device_args(*, shared_image: bool, arena: bool) -> list[str]:
    """Return kernel arguments that name the guest's memory devices."""
    words: list[str] = []
    if shared_image:
        words.append("vitrail.root=pmem")
    if arena:
        words.append("vitrail.pixels=arena")
    if words:
        # Memory above 4 GiB has Linux set 64 MiB aside for devices that cannot reach
        # it (swiotlb); virtio's reach all of it.
        words.append("swiotlb=noforce")
    return words


def agent_args(spec: VmSpec) -> list[str]:
    """Return kernel arguments by which the agent knows its machine."""
    words = [f"vitrail.name={spec.name}"]
    if spec.disposable:
        words.append("vitrail.disposable=1")
    if spec.home is not None:
        words.append(f"vitrail.keep={','.join(sorted(spec.home.keep))}")
    if spec.seats:
        cards = (
            f"{s.mac},{s.address},{s.router},{s.name_server},{s.address6},{s.router6}"
            for s in spec.seats
        )
        words.append(f"vitrail.cards={'/'.join(cards)}")
    if spec.router:
        words.append("vitrail.router=1")
    return words


def qemu_args(spec: VmSpec, qemu: Path, accel: Accel, wiring: Wiring) -> list[str]:
    """Return QEMU's whole command line; the machine starts paused (``-S``)."""
    machine = spec.machine(accel)
    bus = machine.bus
    arguments = base_args(
        qemu,
        accel,
        name=f"vitrail-{spec.name}",
        translated_mib=translated_mib(spec.memory_mib),
        machine=machine,
    )
    arguments += [
        "-S",
        *("-smp", str(spec.cpus)),
        *("-m", memory_size(spec.memory_mib, spec.memory_devices)),
        *memory_args(spec.memory_mib, huge_pages=spec.huge_pages),
        *("-kernel", str(spec.kernel)),
        *("-initrd", str(spec.initrd)),
        *("-append", kernel_args(spec, accel, wiring)),
        *listener_args("qmp", wiring.qmp_fd),
        *("-mon", "chardev=qmp,mode=control"),
        *listener_args("console", wiring.console_fd),
        *("-serial", "chardev:console"),
    ]
    if not spec.huge_pages:
        arguments += free_page_args(bus)
    if spec.root is not None and spec.shared_image_bytes:
        arguments += shared_image_args(spec.root, spec.shared_image_bytes)
    elif spec.root is not None:
        arguments += root_args(spec.root, bus)
    if spec.arena_bytes:
        arguments += arena_object(wiring.arena_fd, spec.arena_bytes)
        arguments += [*ARENA_DEVICE]
        arguments += gpu_args(wiring.gpu_fd) if spec.gpu else []
    if spec.home is not None:
        arguments += home_args(spec.home, bus)
    arguments += [word.format(bus=bus) for word in wiring.vsock]
    for place, fd in enumerate(wiring.folder_fds):
        arguments += folder_args(place, f"fd={fd}", bus)
    for port in range(spec.disks):
        arguments += ["-device", f"pcie-root-port,id={DISK_PORT}{port},chassis={port}"]
    if wiring.nic_fd is not None:
        arguments += _nic("net", wiring.nic_fd, wiring.mac, machine)
    for number, seat in enumerate(spec.seats):
        fd = seat.conn.fileno()
        arguments += _nic(f"seat{number}", fd, seat.mac, machine)
    return arguments


def memory_size(memory_mib: int, devices: Sequence[int]) -> str:
    """Return the size of a machine's memory, with room for devices that are memory."""
    words = [f"{memory_mib}M"]
    if devices:
        most = memory_mib + sum(-(-size >> 20) for size in devices)
        words += [f"slots={len(devices)}", f"maxmem={most}M"]
    return ",".join(words)


def translated_mib(memory_mib: int) -> int:
    """Return how much translated code a machine may keep, in MiB.

    QEMU's own answer is a GiB, of which a boot fills more than it ever runs again, and
    a program that ends and starts again fills all: its code is at other pages each time.
    """
    return min(1024, max(64, memory_mib // 8))


def memory_args(memory_mib: int, *, huge_pages: bool, shared: bool = True) -> list[str]:
    """Return the words of a machine's memory; vhost-user devices need it shared."""
    share = "on" if shared else "off"
    pages = ",hugetlb=on,hugetlbsize=2M" if huge_pages else ""
    backend = f"memory-backend-memfd,id=mem,size={memory_mib}M,share={share}{pages}"
    return ["-object", backend, "-machine", "memory-backend=mem"]


def _json(node: Mapping[str, object]) -> str:
    """Return JSON without spaces: a shell that splits words leaves it whole."""
    return json.dumps(node, separators=(",", ":"))


def free_page_args(bus: str, options: str = "") -> list[str]:
    """Return the words by which a guest gives back the pages that it has freed.

    Only for a machine whose memory is its own: QEMU punches holes into the file, and
    the guest chooses where.  A file that other machines map as well must not be
    below such a device.
    """
    device = f"virtio-balloon-{bus},id=balloon,free-page-reporting=on{options}"
    return ["-device", device]


def listener_args(name: str, fd: int) -> list[str]:
    """Return the words of a chardev that is a listening socket."""
    return ["-chardev", f"socket,id={name},fd={fd},server=on,wait=off"]


def root_args(path: Path, bus: str, options: str = "") -> list[str]:
    """Return the words of the root disk; ``options`` begin with a comma."""
    node = {
        "driver": "raw",
        "node-name": "root",
        "read-only": True,
        "file": {"driver": "file", "filename": str(path), "read-only": True},
    }
    return [
        *("-blockdev", _json(node)),
        *("-device", f"virtio-blk-{bus},drive=root{options}"),
    ]


def shared_image_args(path: Path, size: int) -> list[str]:
    """Return the words by which a machine maps its image instead of reading it.

    The pages are those of the host's page cache, so machines of one image have them
    in common.  No machine can change one: the file is open for reading, and is a ROM
    to the guest, which also keeps it out of what a vhost-user back end maps and what
    the balloon discards.
    """
    backend: dict[str, str | int] = {
        "qom-type": "memory-backend-file",
        "id": "image",
        "mem-path": str(path),
        "size": size,
        "share": True,
    }
    # guard: no machine writes to the image that others map
    backend["readonly"] = True
    return [
        *("-object", _json(backend)),
        *("-device", "virtio-pmem-pci,memdev=image"),
    ]


def arena_object(fd: int, size: int, holder: str = "self") -> list[str]:
    """Return the words by which QEMU maps an arena: a memfd, by its descriptor.

    ``holder``: the process below /proc that has it.
    """
    path = f"/proc/{holder}/fd/{fd}"
    backend = f"memory-backend-file,id=arena,share=on,mem-path={path},size={size}"
    return ["-object", backend]


def gpu_args(fd: int) -> list[str]:
    """Return the words of a GPU whose renderer is at the other end of a descriptor."""
    # Its pictures are read back into an arena, so the machine is a q35 and has PCI.
    device = "vhost-user-gpu-pci,chardev=gpu"
    return ["-chardev", f"socket,id=gpu,fd={fd}", "-device", device]


def home_args(home: HomeDisk, bus: str, full: str = "enospc") -> list[str]:
    """Return QEMU's words for the home disk and its key.

    ``full``: what QEMU does with a write where our disk is full, as of ``werror``.
    """
    secret: list[str] = []
    layer = {"driver": "raw"}
    if home.key >= 0:
        secret = [
            "-object",
            f"secret,id=homekey,file=/proc/{home.holder}/fd/{home.key}",
        ]
        layer = {"driver": "luks", "key-secret": "homekey"}
    node = {
        **layer,
        "node-name": "home",
        # Blocks that the guest discards become holes in our file.
        "discard": "unmap",
        "file": {
            "driver": "file",
            "filename": str(home.path),
            "discard": "unmap",
            "locking": "on",
        },
    }
    # Where our disk is full the machine stops, before its guest loses data that it wrote and
    # mounts its home read-only; ``control`` lets it try again.
    options = f"werror={full},rerror=report,discard=on"
    device = f"virtio-blk-{bus},drive=home,serial={HOME_SERIAL},{options}"
    return [*secret, *("-blockdev", _json(node)), *("-device", device)]


def folder_args(place: int, socket: str, bus: str) -> list[str]:
    """Return the words of a virtiofs device; ``socket``: an option of its chardev."""
    device = f"vhost-user-fs-{bus},chardev=folder{place},tag={FOLDER_TAG}{place}"
    return ["-chardev", f"socket,id=folder{place},{socket}", "-device", device]


def _nic(name: str, fd: int, mac: str, machine: MachineType) -> list[str]:
    return [
        *("-netdev", f"stream,id={name},server=off,addr.type=fd,addr.str={fd}"),
        "-device",
        f"virtio-net-{machine.bus},netdev={name},mac={mac}{machine.nic_options}",
    ]
