"""A sandbox's record: what ``sandboxes.d/NAME.toml`` comes to mean.

A record has two parts that live on two machines: what the *host* needs
(how the sandbox is started and recognised) and what the *viewer* needs (label,
windows, sound, limits).  Neither part is ever sent to the other side whole.
The format itself is in ``tables``.

The authority makes it of the file and sends each part to host and viewer; session
children and brokerctl make it of the file themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, TypeAlias, TypeGuard

import msgspec
from typing_extensions import override

from policy.errors import Problem, Spot
from policy.limits import FEW_OPEN_FILES
from policy.records import kinds
from policy.records.kinds import KINDS, LaunchKind
from policy.records.mounts.user_files import Folders, Mount

SandboxClass = Literal["persistent", "disposable", "template"]
Display = Literal["none", "allow"]
Playback = Literal["none", "allow", "raw"]
Microphone = Literal["deny", "ask", "allow"]
Gpu = Literal["none", "buffers", "render"]
ByRules = Literal["none", "rules"]

STRIP_PIXELS = 20
"""The least height of an upper edge with a name, if the record gives none, in logical pixels.

With 4, the default border, a multiple of 4: whole pixels of the screen at scale 1.25,
1.5 and 1.75, so that the content begins at one and is not blurred.
"""


@dataclass(frozen=True)
class Label:
    """``colour`` is ``#rrggbb`` in lower case."""

    name: str
    colour: str


@dataclass(frozen=True)
class Limits:
    """Counts, each at most what the broker allows to any sandbox."""

    streams: int
    wayland_clients: int
    programs: int


@dataclass(frozen=True)
class Window:
    """How its windows are framed.

    ``border`` and ``top`` are logical pixels; ``buffer_memory`` is bytes
    of shared memory.  ``name_strip`` None: where the compositor draws no title bar.
    ``allow`` and ``deny`` name Wayland globals; deny wins.
    """

    border: int
    name_strip: bool | None
    top: int
    title_prefix: str
    fullscreen: Literal["fake", "framed", "real"]
    x11: bool
    translucent: bool
    subsurfaces: Literal["crop", "promote"]
    allow: frozenset[str]
    deny: frozenset[str]
    windows: int
    popups: int
    surfaces: int
    buffer_memory: int


@dataclass(frozen=True)
class Audio:
    """Its permissions for playback and recording.

    ``microphone`` is the most that a rule may grant.  ``rate`` is in Hz,
    ``buffer`` in bytes, ``volume`` in percent, ``idle`` in seconds.
    """

    playback: Playback
    microphone: Microphone
    revoked: Literal["silence", "end"]
    streams: int
    rate: int
    channels: int
    buffer: int
    volume: int
    idle: int


@dataclass(frozen=True)
class Clipboard:
    """Content that may cross where a rule allows it; None: the record sets nothing.

    ``max_size`` is in bytes, ``ttl`` in seconds.
    """

    types: frozenset[str] | None
    max_size: int | None
    ttl: int | None
    primary: ByRules
    drag: ByRules
    clean: frozenset[str]


@dataclass(frozen=True)
class Transfer:
    """How much it may send (and must keep free): bytes and counts."""

    file_size: int
    request_size: int
    request_files: int
    day_size: int
    day_requests: int
    keep_free: int


@dataclass(frozen=True)
class NetworkLimits:
    """What its flows may take, with ``network = "rules"``.

    ``new_flows`` and ``lookups`` are counts a second, ``send_rate`` and
    ``receive_rate`` bytes a second; None: as fast as they are carried.
    """

    flows: int = 1024
    new_flows: int = 100
    lookups: int = 50
    send_rate: int | None = None
    receive_rate: int | None = None
    ech: Literal["allow", "deny"] = "allow"


class CalledService(NamedTuple):
    """A program that other sandboxes call by name (``vitrail.Call``).

    ``user`` and ``working_directory``: those of the target; '' are the guest's own user
    and its home.  ``concurrent``: calls at one time.
    """

    name: str
    command: tuple[str, ...]
    user: str
    working_directory: str
    concurrent: int

    @override
    def __str__(self) -> str:
        return f"{self.name}: {' '.join(self.command)}"


@dataclass(frozen=True)
class ViewerRecord:
    """The part of a sandbox's record that the viewer uses."""

    label: Label
    sandbox_class: SandboxClass
    tags: frozenset[str]
    default_disposable: str | None
    display: Display
    timezone: Literal["utc", "desktop"]
    window: Window
    audio: Audio
    clipboard: Clipboard
    transfer: Transfer
    limits: Limits
    network: NetworkLimits = field(default_factory=NetworkLimits)
    folders: Folders = field(default_factory=Folders)
    services: tuple[CalledService, ...] = ()
    looks: tuple[tuple[str, str | int], ...] = ()
    """Keys of ``[looks]`` that are set, with their values."""


GPU_GLOBAL = "zwp_linux_dmabuf_v1"
"""The Wayland global that windows need for what the GPU drew (``launch.gpu``)."""

HOST_IMAGE = "host"
"""The image of the machine's own programs."""


class MicroVM(msgspec.Struct, frozen=True, tag=True):
    """A machine that our launcher starts.  ``boot_deadline`` is in seconds."""

    image: str
    memory_mib: int
    cpus: int
    network: str
    command: tuple[str, ...]
    boot_deadline: int
    packages: tuple[str, ...] = ()
    """Packages of the image besides the default ones; 'brokerctl run' builds it."""
    fork: Literal["shared", "copy", "no"] = "copy"
    """Whether a disposable one may be a copy of a booted machine, or share its
    memory."""
    gpu: Gpu = "none"
    """With ``render``, a process of the host draws for it, and it has an arena."""
    huge_pages: bool = False
    """Its memory is of pages of 2 MiB; it boots then."""
    shared_image: bool = False
    """Its image is memory that machines of the image share; it boots then."""
    pixel_arena: bool = False
    """Its windows' pixels are left in memory that it shares with its host; it boots
    then."""
    standby_mib: int = 0
    """Memory of machines that wait for a start, in MiB; 0: none of this record."""
    root: Literal["image", "host"] = "image"
    """With ``host``, ``image`` is that of this machine's own programs."""
    folders: int = 0
    """Places for folders that are shared while it runs."""
    provides_network: bool = False
    """It is the network of others; its programs have rights over its own."""
    host_files: tuple[Literal["fonts", "locale", "certificates"], ...] = ()
    """Files of the host that the guest gets, besides the image."""
    disks: int = 0
    """Places for disks of the user's images."""

    @property
    def kind(self) -> LaunchKind:
        """The row of its kind."""
        return kinds.MICROVM


class ThrowawayVm(msgspec.Struct, frozen=True, tag=True):
    """A domain of the user's libvirt or a machine of systemd-vmspawn, made for a run.

    It boots an image as a micro VM does.  ``boot_deadline`` is in seconds.
    """

    image: str
    memory_mib: int
    cpus: int
    command: tuple[str, ...]
    boot_deadline: int
    manager: Literal["libvirt-qemu", "vmspawn"] = "libvirt-qemu"

    @staticmethod
    def domain(record: str) -> str:
        """Return the name of the domain or machine of a record."""
        return f"vitrail-{record}"

    @property
    def kind(self) -> LaunchKind:
        """The row of its kind."""
        return KINDS[self.manager]


class Bwrap(msgspec.Struct, frozen=True, tag=True):
    """A box of namespaces on this machine's own programs, by bubblewrap.

    Or on those of another system, whose tree is ``rootfs``.
    """

    command: tuple[str, ...]
    rootfs: Path | None = None
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    network: str = "none"
    open_files: int = FEW_OPEN_FILES
    user_namespaces: bool = False
    provides_network: bool = False
    gpu: Gpu = "none"
    mounts: tuple[Mount, ...] = ()

    kind: ClassVar[LaunchKind] = kinds.BWRAP


class Podman(msgspec.Struct, frozen=True, tag=True):
    """A container of Podman.  ``image`` or ``rootfs``, or neither: others start it.

    ``required``: one with its annotation does not start without its lease.
    """

    command: tuple[str, ...]
    image: str | None = None
    rootfs: Path | None = None
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    memory_mib: int = 768
    pids: int = 512
    required: bool = False
    network: str = "none"
    """Of a sandbox that 'brokerctl run' starts; another has what its command line says."""
    provides_network: bool = False
    open_files: int = FEW_OPEN_FILES
    by_files: bool = False
    user_namespaces: bool = False
    gpu: Gpu = "none"
    mounts: tuple[Mount, ...] = ()

    kind: ClassVar[LaunchKind] = kinds.PODMAN


class Nspawn(msgspec.Struct, frozen=True, tag=True):
    """A container of systemd-nspawn, of a directory tree."""

    command: tuple[str, ...]
    rootfs: Path
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    memory_mib: int = 768
    pids: int = 512
    open_files: int = FEW_OPEN_FILES
    user_namespaces: bool = False
    network: str = "none"
    provides_network: bool = False
    mounts: tuple[Mount, ...] = ()

    kind: ClassVar[LaunchKind] = kinds.NSPAWN


class Flatpak(msgspec.Struct, frozen=True, tag=True):
    """An installed Flatpak application, with its permissions replaced by these."""

    app: str
    share_network: bool = False
    read_only: tuple[Path, ...] = ()
    read_write: tuple[Path, ...] = ()
    open_files: int = FEW_OPEN_FILES
    gpu: Gpu = "none"

    kind: ClassVar[LaunchKind] = kinds.FLATPAK


class SharedBox(msgspec.Struct, frozen=True, tag=True):
    """A box of toolbox or distrobox: a label and no boundary."""

    required: bool = False
    rootful: bool = False

    kind: ClassVar[LaunchKind] = kinds.SHARED_BOX


class RecordPeer(msgspec.Struct, frozen=True):
    """How a sandbox that another program starts is recognised: ``[peer]``.

    ``key`` is its key there; ``machine``: a VM, whose guest may have our agent;
    ``several``: it is the peer of several sandboxes at one time;
    ``leased``: when its lease begins, where no launcher asks for that, and ``hint``.
    """

    key: ClassVar[str]
    machine: ClassVar[bool] = True
    several: ClassVar[bool] = False
    leased: ClassVar[str] = ""
    hint: ClassVar[str] = ""

    @property
    def claim(self) -> str | int:
        """The value of its key, as a launcher names it: the first field."""
        value = getattr(self, self.__struct_fields__[0])
        return value if isinstance(value, int) else str(value)

    def is_at(self, way: str, place: str | int) -> bool:
        """Return whether a launcher's ``hybrid``, ``cid`` or ``unix`` is this peer."""
        return (way, place) == (self.key, self.claim)


class HybridPeer(RecordPeer, frozen=True, tag=True):
    """A machine behind a hybrid-vsock socket."""

    path: Path
    key: ClassVar[str] = "hybrid"


class CidPeer(RecordPeer, frozen=True, tag=True):
    """A machine with a vsock context id, in the host's network namespace."""

    cid: int
    key: ClassVar[str] = "cid"


class HybridDirectoryPeer(RecordPeer, frozen=True, tag=True):
    """Several machines, each behind a hybrid-vsock socket in one directory.

    Or in a directory of its own there, which is all that what serves it can write to.
    """

    path: Path
    key: ClassVar[str] = "hybrid_directory"
    several: ClassVar[bool] = True

    @override
    def is_at(self, way: str, place: str | int) -> bool:
        # guard: a directory of machines' sockets is that directory alone
        room = _parent(str(place))
        return way == "hybrid" and str(self.path) in (room, _parent(room))


class CidRangePeer(RecordPeer, frozen=True, tag=True):
    """Several machines, with context ids from the first to the last."""

    first: int
    last: int
    key: ClassVar[str] = "cids"
    several: ClassVar[bool] = True

    @property
    @override
    def claim(self) -> str:
        return f"{self.first}-{self.last}"

    @override
    def is_at(self, way: str, place: str | int) -> bool:
        return way == "cid" and self.first <= int(place) <= self.last


class LibvirtPeer(RecordPeer, frozen=True, tag=True):
    """A domain of libvirt's, by its name or its UUID."""

    domain: str
    key: ClassVar[str] = "libvirt"
    leased: ClassVar[str] = "by libvirt's hook"
    hint: ClassVar[str] = (
        "run 'brokerctl launcher install libvirt' and start the domain"
    )


class MachinePeer(RecordPeer, frozen=True, tag=True):
    """A virtual machine of systemd-machined, by its name.

    ``hybrid`` is the hybrid-vsock socket of one without a context id.
    """

    name: str
    hybrid: Path | None = None
    key: ClassVar[str] = "machine"
    leased: ClassVar[str] = "when its machine is registered with systemd-machined"
    hint: ClassVar[str] = "to list the registered machines, run 'machinectl list'"

    @override
    def is_at(self, way: str, place: str | int) -> bool:
        # guard: the socket of a machine of machined is its record's
        return way == "hybrid" and place == str(self.hybrid)


class UnixPeer(RecordPeer, frozen=True, tag=True):
    """A container behind a UNIX socket."""

    path: Path
    key: ClassVar[str] = "unix"
    # A container's sockets are those of its display and sound only.
    machine: ClassVar[bool] = False


def _parent(untrusted_path: str) -> str:
    """Return the directory of a socket; "" for a path with another name for its place."""
    if os.path.normpath(untrusted_path) != untrusted_path:
        return ""
    return str(Path(untrusted_path).parent)


Peer: TypeAlias = (
    HybridPeer
    | HybridDirectoryPeer
    | CidPeer
    | CidRangePeer
    | LibvirtPeer
    | MachinePeer
    | UnixPeer
)


class External(msgspec.Struct, frozen=True, tag=True):
    """A sandbox that another program starts.

    All but ``peer`` is for ``brokerctl machine arguments``.
    """

    peer: Peer
    memory_mib: int = 768
    huge_pages: bool = False
    image: str = "default"
    image_file: Path | None = None
    """A root file system of the user's, in place of the image's."""
    shared_image: bool = False
    pixel_arena: bool = False
    folders: int = 0

    kind: ClassVar[LaunchKind] = kinds.EXTERNAL


Launch = (
    MicroVM | ThrowawayVm | External | Bwrap | Podman | Nspawn | Flatpak | SharedBox
)


def boots(launch: Launch) -> TypeGuard[MicroVM | ThrowawayVm]:
    """Return whether a launch boots an image, and has a command and a deadline then."""
    return launch.kind.boots


def is_of_others(launch: Launch) -> TypeGuard[External]:
    """Return whether other programs start it."""
    return launch.kind.of_others


def has_command(
    launch: Launch,
) -> TypeGuard[MicroVM | ThrowawayVm | Bwrap | Podman | Nspawn]:
    """Return whether the record has the program of a launch."""
    return launch.kind.own_command


@dataclass(frozen=True)
class State:
    """Data that a persistent sandbox keeps between its runs.

    ``keep`` has ``home`` or nothing; ``size`` is in bytes.
    """

    keep: frozenset[str]
    size: int
    encrypted: bool = False


@dataclass(frozen=True)
class HostRecord:
    """The part of a sandbox's record that the host uses.

    ``state`` is None for all but persistent sandboxes that we start; ``keep_logs``:
    the logs stay when the sandbox has ended.
    """

    sandbox_class: SandboxClass
    launch: Launch
    state: State | None = None
    keep_logs: bool = True

    @property
    def command(self) -> tuple[str, ...]:
        """The program of its record; empty where another program starts the sandbox."""
        return self.launch.command if has_command(self.launch) else ()


@dataclass(frozen=True)
class Record:
    """One record without a problem.

    ``values`` has the value that holds for each key (``launch.memory``), set or
    default; ``places`` the ``file:line:column`` of each key that the file, or one
    that it inherits from, sets; ``spots`` their values; ``inherits`` those records,
    the nearest first; ``text`` the file.  ``digest`` is the SHA-256 of what the
    record means, in hex: comments, order and ways of writing do not change it.
    """

    name: str
    viewer: ViewerRecord
    host: HostRecord
    source: Path
    values: Mapping[str, object]
    places: Mapping[str, str]
    digest: str
    inherits: tuple[str, ...] = ()
    spots: Mapping[str, Spot] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )
    text: str = field(default="", compare=False, repr=False)

    def where(self, key: str) -> str:
        """``file:line:column`` of a key, or that its default holds."""
        return self.places.get(key) or f"{self.source}: default of '{key}'"

    def spot(self, key: str) -> Spot:
        """Where a key's value is; the file where its default holds."""
        return self.spots.get(key) or Spot(str(self.source))


@dataclass(frozen=True)
class RecordSet:
    """All records of the directories.

    ``broken`` maps the name of each record that cannot be used to its first
    problem; in a running broker its last good one may be in ``records``.
    ``digest`` is the SHA-256, in hex, of the meaning of the set.
    """

    records: Mapping[str, Record]
    broken: Mapping[str, Problem]
    problems: tuple[Problem, ...]
    digest: str
