"""Calls between host and viewer: leases, streams, starts, devices, folders.

The same rows on one machine, over a pair of sockets, and on two, over the link.  A row
with an ``absent`` entry for ``link`` is not on the link: it has a descriptor, or is about
things that two machines do not share.  (What only the link has is in ``net.link.calls``.)

Host and viewer trust each other's facts only as far as they are about their own side.
Texts may come from another machine, whose broker may be compromised: they are one line
of printable characters, or the message is refused, and still only a claim.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

from broker.core.decoding import OneLineMessage
from broker.core.escape import fit
from broker.core.launch_changes import LaunchChanges
from broker.core.lease import Lease
from broker.core.limits import link as limits
from broker.core.names import take_lease_id, take_sandbox_name
from broker.ipc.control.types.leases import LeaseStatus
from broker.ipc.control.types.status_rows import ProcessStatus, SandboxStatus
from broker.ipc.devices.messages import DeviceItem
from broker.ipc.session.folder_orders import TICKET_BYTES
from broker.wire.call_messages import ErrorReport
from broker.wire.row import Absence, Empty, ProcessKind, Row, rows_of

Number = Annotated[int, msgspec.Meta(ge=1, le=limits.LINK_COUNTER)]
Count = Annotated[int, msgspec.Meta(ge=0, le=limits.LINK_COUNTER)]
Text = Annotated[str, msgspec.Meta(max_length=limits.LINK_TEXT_CHARACTERS)]
ShortText = Annotated[str, msgspec.Meta(max_length=120)]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,30}\Z")]
_LeaseId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]

_HOST: Final = frozenset({ProcessKind.HOST})
_VIEWER: Final = frozenset({ProcessKind.VIEWER})
_ONE_MACHINE: Final[dict[str, Any]] = {
    "droppable": True,
    "absent": (Absence("link", "host and viewer are on different machines", ""),),
}
"""Columns of a row that is not on the link."""


class LinkMessage(OneLineMessage, frozen=True, forbid_unknown_fields=True):
    """Base of what crosses between host and viewer: texts are one printable line.

    A report says ``forbid_unknown_fields=False``: a newer end may add an optional field
    to it under the same version, and an older one shows less.  Never a message that has
    an effect or a decision in it: a field that narrows a request (``network`` of a start)
    must be followed or refused, not ignored.
    """


# -- the viewer serves -------------------------------------------------------------


class LeaseBegun(LinkMessage, frozen=True):
    """Announce a lease.  Its streams may be opened once this is answered.

    An error means: no streams; the host withdraws it with LeaseEnded.
    """

    lease: _LeaseId
    sandbox: _Name
    record: _Name
    generation: Number
    peer: ShortText
    """How the host recognised the peer, for the log."""

    @classmethod
    def of(cls, lease: Lease, peer: str) -> LeaseBegun:
        """The announcement of a lease."""
        return cls(lease.id, lease.sandbox, lease.record, lease.generation, fit(peer))

    def to_lease(self) -> Lease:
        """Convert the message to a lease, with its names validated."""
        return Lease(
            take_lease_id(self.lease),
            take_sandbox_name(self.sandbox),
            take_sandbox_name(self.record),
            self.generation,
        )


class LeaseEnded(LinkMessage, frozen=True):
    """Withdraw a lease; answered when every stream of it is cut."""

    lease: _LeaseId
    reason: Text


class DeviceEnded(LinkMessage, frozen=True, forbid_unknown_fields=False):
    """An attachment has ended, not by DeviceDetach."""

    attachment: ShortText
    reason: Text


class HostFailed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The host cannot start."""

    error: ErrorReport


class OfferStream(LinkMessage, frozen=True):
    """Offer a stream, whose socket comes along; answered when it is accepted."""

    lease: _LeaseId
    service: ShortText
    stream: Number
    peer: Text
    direct: bool = False


class NamedLease(LinkMessage, frozen=True):
    """A request about a lease."""

    lease: _LeaseId


class NamedStream(LinkMessage, frozen=True):
    """A request about a stream that was accepted."""

    stream: Number


class FolderLost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mounted folder is gone without a request."""

    mount: Number
    error: ErrorReport


class MachineStopped(LinkMessage, frozen=True):
    """The host has stopped a machine, for this reason; empty: it runs again."""

    lease: _LeaseId
    reason: Text


LEASE_BEGUN = Row(
    "LeaseBegun", LeaseBegun, Empty, _VIEWER, _HOST, ordered=True, droppable=True
)
LEASE_ENDED = Row(
    "LeaseEnded", LeaseEnded, Empty, _VIEWER, _HOST, ordered=True, droppable=True
)
DEVICES_CHANGED = Row("DevicesChanged", Empty, Empty, _VIEWER, _HOST, droppable=True)
"""The list of devices would be another one by now."""
DEVICE_ENDED = Row("DeviceEnded", DeviceEnded, Empty, _VIEWER, _HOST, droppable=True)
HOST_READY = Row("HostReady", Empty, Empty, _VIEWER, _HOST, **_ONE_MACHINE)
"""The host accepts requests; machines of an earlier broker have their leases."""
HOST_FAILED = Row("HostFailed", HostFailed, Empty, _VIEWER, _HOST, **_ONE_MACHINE)
OFFER_STREAM = Row(
    "OfferStream", OfferStream, Empty, _VIEWER, _HOST, takes=1, **_ONE_MACHINE
)
LEND_ARENA = Row(
    "LendArena", NamedLease, Empty, _VIEWER, _HOST, takes=1, **_ONE_MACHINE
)
"""Lend the memory of a guest's pixels, whose descriptor comes along."""
CUT_STREAM = Row("CutStream", NamedStream, Empty, _VIEWER, _HOST, **_ONE_MACHINE)
"""Cut a stream that was accepted; answered when it has ended."""
FOLDER_LOST = Row("FolderLost", FolderLost, Empty, _VIEWER, _HOST, **_ONE_MACHINE)
MACHINE_STOPPED = Row(
    "MachineStopped", MachineStopped, Empty, _VIEWER, _HOST, **_ONE_MACHINE
)


# -- the host serves ---------------------------------------------------------------


class StartSandbox(LinkMessage, frozen=True):
    """Start the sandbox of one of the host's records; no command travels.

    The others are for this start, within the record's values; None leaves them.
    """

    record: _Name
    memory_mib: Count | None = None
    cpus: Count | None = None
    network: Literal["none", "user"] | None = None
    image: _Name | None = None
    for_sandbox: bool = False
    """A sandbox of the viewer has asked for it, and the user has not."""

    @property
    def changes(self) -> LaunchChanges:
        """Differences of this start from the record."""
        return LaunchChanges(self.memory_mib, self.cpus, self.network, self.image)


class StartProgress(LinkMessage, frozen=True, forbid_unknown_fields=False):
    """The current step of a start that takes time, for the user who waits."""

    text: Text


class SandboxStarted(LinkMessage, frozen=True):
    """The sandbox has this lease, announced before."""

    lease: _LeaseId


class StopSandbox(LinkMessage, frozen=True):
    """End a sandbox, ``grace`` seconds after asking it to go."""

    lease: _LeaseId
    grace: Annotated[float, msgspec.Meta(ge=0)]
    reason: Text


class SuspendSandbox(LinkMessage, frozen=True):
    """Stop a sandbox's programs, or let them run again."""

    lease: _LeaseId
    suspended: bool


class DeviceListRequest(LinkMessage, frozen=True):
    """List the host's devices with a number above ``after``, lowest first."""

    after: Count = 0


class DevicesReply(LinkMessage, frozen=True):
    """Some devices, in the order of their numbers; ``more``: ask after the last one."""

    devices: Annotated[list[DeviceItem], msgspec.Meta(max_length=limits.LINK_DEVICES)]
    more: bool = False
    strict: bool = False
    source: ShortText = ""
    problems: Annotated[
        tuple[Text, ...], msgspec.Meta(max_length=limits.LINK_WARNINGS)
    ] = ()


class DeviceAttach(LinkMessage, frozen=True):
    """Hand a device to the sandbox of a lease, within the host's ``devices.toml``."""

    device: Number
    lease: _LeaseId


class DeviceHanded(LinkMessage, frozen=True):
    """The device is in the sandbox."""

    attachment: ShortText
    backend: ShortText


class DeviceDetach(LinkMessage, frozen=True):
    """Take a device back; answered when it is, also when it was before.

    By its number: it may be about an attach that has no answer yet.
    """

    device: Number


class MountFolder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mount a directory in a sandbox, which a session child has given to the host."""

    mount: Number
    lease: _LeaseId
    ticket: Annotated[bytes, msgspec.Meta(max_length=TICKET_BYTES)]


class FolderMounted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The folder is in the sandbox; see ``host_folders.Mounted``."""

    path: bytes
    place: int | None = None


class NamedMount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request about a mounted folder."""

    mount: Number


class FolderState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether a program of the sandbox may have kept a folder that is unmounted."""

    kept: bool


class HostRowsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rows (``HostRowsReport``) are in the sealed file that comes along."""

    size: Number


class StreamRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stream of the host, and when it began (seconds since 1970)."""

    lease: _LeaseId
    service: ShortText
    stream: int
    peer: str
    began: float


class HostRowsReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The host's part of ``brokerctl status``."""

    sandboxes: list[SandboxStatus]
    leases: list[LeaseStatus]
    streams: list[StreamRow]
    processes: list[ProcessStatus]
    warnings: list[str]
    tasks: int


START = Row(
    "Start",
    StartSandbox,
    SandboxStarted,
    _HOST,
    _VIEWER,
    item=StartProgress,
    droppable=True,
)
STOP = Row("Stop", StopSandbox, Empty, _HOST, _VIEWER, droppable=True)
SUSPEND = Row(
    "Suspend",
    SuspendSandbox,
    Empty,
    _HOST,
    _VIEWER,
    droppable=True,
    absent=(
        Absence(
            "link",
            "machines of a host on another machine cannot be suspended",
            "to end the sandbox, run 'brokerctl stop'",
        ),
    ),
)
DEVICES = Row(
    "Devices", DeviceListRequest, DevicesReply, _HOST, _VIEWER, droppable=True
)
ATTACH = Row("Attach", DeviceAttach, DeviceHanded, _HOST, _VIEWER, droppable=True)
DETACH = Row("Detach", DeviceDetach, Empty, _HOST, _VIEWER, droppable=True)
STREAM_OVER = Row("StreamOver", NamedStream, Empty, _HOST, _VIEWER, **_ONE_MACHINE)
"""A stream that was accepted has ended."""
MOUNT_FOLDER = Row(
    "MountFolder", MountFolder, FolderMounted, _HOST, _VIEWER, **_ONE_MACHINE
)
RELEASE_FOLDER = Row("ReleaseFolder", NamedMount, Empty, _HOST, _VIEWER, **_ONE_MACHINE)
"""Unmount a folder, if no file of it is open."""
UNMOUNT_FOLDER = Row(
    "UnmountFolder", NamedMount, FolderState, _HOST, _VIEWER, **_ONE_MACHINE
)
"""Unmount a folder in any case."""
FORGET_FOLDERS = Row(
    "ForgetFolders", NamedLease, FolderState, _HOST, _VIEWER, **_ONE_MACHINE
)
"""Unmount what an earlier broker left in a sandbox."""
HOST_ROWS = Row(
    "HostRows", Empty, HostRowsFile, _HOST, _VIEWER, gives=1, **_ONE_MACHINE
)
"""The host's rows of the status."""
REFUSE_NEW = Row("RefuseNew", Empty, Empty, _HOST, _VIEWER, **_ONE_MACHINE)
"""The broker is about to end: lease nothing more."""
END_HOST = Row("EndHost", Empty, Empty, _HOST, _VIEWER, **_ONE_MACHINE)
"""End the rest of the host; answered when it has no lease."""

PAIR_ROWS: Final = rows_of(globals())
"""The rows on one machine."""
