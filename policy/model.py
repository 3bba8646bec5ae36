"""A sandbox's record: what may stand in ``sandboxes.d/NAME.toml``.

The tables below are the one description of the format: the checks, the JSON
Schema and the reference in ``docs/policy.md`` come from them.

A record has two parts that will live on two machines: what the *host* needs
(how the sandbox is started and recognised) and what the *viewer* needs (label,
windows, limits).  Neither part is ever sent to the other side whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from policy import limits
from policy.fields import (
    Argument,
    Choice,
    Colour,
    Field,
    Memory,
    Pattern,
    SocketPath,
    Table,
    Title,
    Whole,
    Words,
)

NAME = Pattern("1 to 31 of a-z, 0-9 and '-', beginning with a-z", "[a-z][a-z0-9-]*", 31)
"""Sandboxes, tags and images; the same rule as ``broker.core.names``."""

PALETTE: Mapping[str, str] = MappingProxyType(
    {
        "orange": "#e69f00",
        "sky": "#56b4e9",
        "green": "#009e73",
        "yellow": "#f0e442",
        "blue": "#0072b2",
        "red": "#d55e00",
        "purple": "#cc79a7",
        "grey": "#555555",
    }
)
"""Named colours that stay apart for people who confuse red and green or blue
and yellow: the eight of Okabe and Ito (2008), a dark grey in place of black.  A test
simulates the three kinds of colour blindness and measures the distances."""

SandboxClass = Literal["persistent", "disposable", "template"]
Display = Literal["none", "allow", "waypipe-client"]

TOP = Table(
    "",
    "What the sandbox is, and what it may do here.",
    (
        Field(
            "name",
            NAME,
            "The sandbox's name.  May be left out; otherwise it must be the "
            "file's base name.",
            default_words="the file's base name",
        ),
        Field(
            "class",
            Choice(
                {
                    "persistent": "one sandbox of this name, which runs until it is stopped; what a micro VM writes is not kept yet",
                    "disposable": "a fresh sandbox under a fresh name for each "
                    "start, and nothing of it is left afterwards",
                    "template": "what other sandboxes will be made from; started "
                    "only to be maintained",
                }
            ),
            "How long a sandbox of this record lives.",
            required=True,
        ),
        Field(
            "tags",
            Words(
                NAME,
                f"an array of up to {limits.TAGS} names",
                0,
                limits.TAGS,
                unique=True,
            ),
            "Names by which rules can mean several sandboxes at once.",
            default=[],
        ),
        Field(
            "display",
            Choice(
                {
                    "none": "no windows",
                    "allow": "windows, in the default way of the installed version",
                    "waypipe-client": "windows through a waypipe client of the "
                    "sandbox's own, in a jail",
                }
            ),
            "Whether the sandbox may show windows.",
            default="none",
        ),
        Field(
            "audio",
            Choice({"none": "no sound"}),
            "Whether the sandbox may play sound; not in this version.",
            default="none",
        ),
    ),
)

LABEL = Table(
    "label",
    "How a person tells the sandbox's windows from others.",
    (
        Field(
            "name",
            Title(limits.LABEL_CHARS),
            "Stands before every window title.",
            default_words="the sandbox's name",
        ),
        Field("colour", Colour(PALETTE), "The colour of its frames.", default="grey"),
    ),
)

_VM = "microvm"
_EXTERNAL = "external"

LAUNCH = Table(
    "launch",
    "How the host starts the sandbox.",
    (
        Field(
            "kind",
            Choice(
                {
                    _VM: "a micro VM that Vitrail starts",
                    _EXTERNAL: "started by somebody else, who takes a lease with "
                    "'brokerctl lease acquire'; recognised by [peer]",
                }
            ),
            "Who starts the sandbox, and as what.",
            default=_VM,
        ),
        Field(
            "image",
            NAME,
            "The guest image ('brokerctl image list').",
            default="default",
            only=_VM,
        ),
        Field(
            "memory",
            Memory(*limits.MEMORY_MIB),
            "Memory of the machine.",
            default=768,
            only=_VM,
        ),
        Field("cpus", Whole(*limits.CPUS), "Virtual processors.", default=1, only=_VM),
        Field(
            "network",
            Choice(
                {
                    "none": "no network device at all",
                    "user": "the outside network through a user-space gateway; the "
                    "host's own addresses are closed off",
                }
            ),
            "What the sandbox can reach.",
            default="none",
            only=_VM,
        ),
        Field(
            "command",
            Words(
                Argument(),
                f"an array of 1 to {limits.COMMAND_ARGUMENTS} strings: program and arguments",
                1,
                limits.COMMAND_ARGUMENTS,
                max_bytes=limits.COMMAND_BYTES,
            ),
            "The program to start when 'brokerctl run' names none.",
            default=["foot"],
            only=_VM,
        ),
        Field(
            "boot_deadline",
            Whole(*limits.BOOT_SECONDS, unit="seconds"),
            "How long the guest's agent may take to answer.",
            default=90,
            only=_VM,
        ),
    ),
)

PEER = Table(
    "peer",
    "How a sandbox that somebody else starts is recognised: exactly one of these.",
    (
        Field(
            "hybrid",
            SocketPath(limits.HYBRID_PATH_BYTES),
            "The machine's hybrid-vsock socket (Firecracker, Cloud Hypervisor, "
            "vhost-device-vsock), in a directory that only its launcher may write.",
        ),
        Field(
            "cid",
            Whole(3, 0xFFFFFFFE),
            "The machine's vsock context id.",
        ),
        Field(
            "unix",
            SocketPath(limits.SOCKET_PATH_BYTES),
            "The directory of the container's sockets, which only it and its "
            "launcher can enter; the display service listens there at "
            "`vitrail.Display`.",
        ),
    ),
    only=_EXTERNAL,
)

LIMITS = Table(
    "limits",
    "What the sandbox may hold at one time; never more than the broker allows.",
    (
        Field(
            "streams",
            Whole(*limits.STREAMS),
            "Open streams.",
            default=limits.STREAMS[1],
        ),
        Field(
            "wayland_clients",
            Whole(*limits.WAYLAND_CLIENTS),
            "Connections to the compositor.",
            default=limits.WAYLAND_CLIENTS[1],
        ),
        Field(
            "programs",
            Whole(*limits.PROGRAMS),
            "Programs started by us.",
            default=limits.PROGRAMS[1],
        ),
    ),
)

TABLES = (TOP, LABEL, LAUNCH, PEER, LIMITS)
DISPLAY_KEY = "display"
KIND_KEY = "launch.kind"


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
class ViewerRecord:
    """What the viewer's side needs to know of a sandbox."""

    label: Label
    sandbox_class: SandboxClass
    tags: frozenset[str]
    display: Display
    audio: Literal["none"]
    limits: Limits


@dataclass(frozen=True)
class MicroVM:
    """A machine that our launcher starts.  ``boot_deadline`` is in seconds."""

    image: str
    memory_mib: int
    cpus: int
    network: Literal["none", "user"]
    command: tuple[str, ...]
    boot_deadline: int


@dataclass(frozen=True)
class HybridPeer:
    """A machine behind a hybrid-vsock socket."""

    path: Path


@dataclass(frozen=True)
class CidPeer:
    """A machine with a vsock context id, in the host's network namespace."""

    cid: int


@dataclass(frozen=True)
class UnixPeer:
    """A container behind a UNIX socket."""

    path: Path


@dataclass(frozen=True)
class External:
    """A sandbox that somebody else starts."""

    peer: HybridPeer | CidPeer | UnixPeer


@dataclass(frozen=True)
class HostRecord:
    """What the host's side needs to know of a sandbox."""

    sandbox_class: SandboxClass
    launch: MicroVM | External


@dataclass(frozen=True)
class Record:
    """One record without a problem.

    ``values`` has the value that holds for each key (``launch.memory``), set or
    default; ``places`` the ``file:line:column`` of each key that the file sets.
     ``digest`` is the SHA-256 of what the record means,
    in hex: comments, order and ways of writing do not change it.
    """

    name: str
    viewer: ViewerRecord
    host: HostRecord
    source: Path
    values: Mapping[str, object]
    places: Mapping[str, str]
    digest: str

    def where(self, key: str) -> str:
        """``file:line:column`` of a key, or that its default holds."""
        return self.places.get(key) or f"{self.source}: default of '{key}'"


def digest_of(name: str, viewer: ViewerRecord, host: HostRecord) -> str:
    """Return the digest of a record's meaning."""
    meaning = {
        "name": name,
        "viewer": asdict(viewer),
        "host": {**asdict(host), "kind": type(host.launch).__name__},
    }
    if isinstance(host.launch, External):
        meaning["peer"] = type(host.launch.peer).__name__
    text = json.dumps(meaning, sort_keys=True, default=_plain)
    return hashlib.sha256(b"vitrail record 1\n" + text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)
