"""Messages between host and viewer on one machine: those of the link, and some more.

What the link has too (leases, starts, devices) are its messages (``link.messages``).
The others are about streams and folders, or tell what two machines ask their users: the rows of
the host's status, and the order of a broker's end.  Each is one packet of a SEQPACKET
socket, JSON with at most one descriptor.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, TypeAlias

import msgspec
from typing_extensions import override

from broker.core.decoding import UNREADABLE
from broker.core.errors import PeerError, RefusedError, VitrailError
from broker.core.limits import link as link_limits
from broker.ipc.control.types.leases import LeaseStatus
from broker.ipc.control.types.status_rows import ProcessStatus, SandboxStatus
from broker.ipc.session.folder_orders import TICKET_BYTES
from broker.net.link import messages as m
from broker.net.link.wire_types import Role
from broker.wire.faults import fault_of, from_fault

_Number = Annotated[int, msgspec.Meta(ge=1, le=link_limits.LINK_COUNTER)]
_LeaseId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
_Short = Annotated[str, msgspec.Meta(max_length=120)]
_Text = Annotated[str, msgspec.Meta(max_length=link_limits.LINK_TEXT_CHARACTERS)]


# -- from the host -----------------------------------------------------------------


class HostReady(m.LinkRequest, frozen=True, tag="host-ready"):
    """The host takes orders; machines of an earlier broker have their leases."""


class HostFailed(m.LinkRequest, frozen=True, tag="host-failed"):
    """The host cannot start."""

    error: ErrorReport


class OfferStream(m.LinkRequest, frozen=True, tag="offer"):
    """Offer a stream, whose socket comes along; answered Done when it is taken."""

    lease: _LeaseId
    service: _Short
    stream: _Number
    peer: _Text
    direct: bool = False


class LendArena(m.LinkRequest, frozen=True, tag="arena"):
    """Lend the memory, whose descriptor comes along, where a guest leaves its pixels."""

    lease: _LeaseId


class CutStream(m.LinkRequest, frozen=True, tag="cut-stream"):
    """Cut a stream that was taken; answered Done when it has ended."""

    stream: _Number


class FolderLost(m.LinkRequest, frozen=True, tag="folder-lost"):
    """A mounted folder is gone without a request."""

    mount: _Number
    error: ErrorReport


class MachineStopped(m.LinkRequest, frozen=True, tag="machine-stopped"):
    """The host has stopped a machine, for this reason; empty: it runs again."""

    lease: _LeaseId
    reason: _Text


# -- from the viewer ---------------------------------------------------------------


class StopLease(m.LinkRequest, frozen=True, tag="stop-lease"):
    """End a sandbox, ``grace`` seconds after asking it to go."""

    lease: _LeaseId
    grace: Annotated[float, msgspec.Meta(ge=0)]
    reason: _Text


class SuspendLease(m.LinkRequest, frozen=True, tag="suspend-lease"):
    """Stop a sandbox's programs, or let them run again."""

    lease: _LeaseId
    suspended: bool


class StreamOver(m.LinkRequest, frozen=True, tag="stream-over"):
    """A stream that was taken has ended."""

    stream: _Number


class MountFolder(m.LinkRequest, frozen=True, tag="mount"):
    """Mount a directory in a sandbox, which a session child has given to the host."""

    mount: _Number
    lease: _LeaseId
    ticket: Annotated[bytes, msgspec.Meta(max_length=TICKET_BYTES)]


class ReleaseFolder(m.LinkRequest, frozen=True, tag="release"):
    """Unmount a folder, if no file of it is open."""

    mount: _Number


class UnmountFolder(m.LinkRequest, frozen=True, tag="unmount"):
    """Unmount a folder in any case; answered with ``FolderState``."""

    mount: _Number


class ForgetFolders(m.LinkRequest, frozen=True, tag="forget"):
    """Unmount what an earlier broker left in a sandbox."""

    lease: _LeaseId


class HostRowsAsked(m.LinkRequest, frozen=True, tag="rows"):
    """Request for the host's rows of the status."""


class RefuseNew(m.LinkRequest, frozen=True, tag="refuse-new"):
    """The broker is about to end: lease nothing more."""


class EndHost(m.LinkRequest, frozen=True, tag="end"):
    """End the rest of it; answered when the host has no lease."""


# -- replies, and from either -----------------------------------------------------------


class FolderMounted(m.LinkReply, frozen=True, tag="mounted"):
    """The folder is in the sandbox; see ``host_folders.Mounted``."""

    path: bytes
    place: int | None = None


class FolderState(m.LinkReply, frozen=True, tag="folder"):
    """Whether a program of the sandbox may have kept a folder that is unmounted."""

    kept: bool


class HostRowsFile(m.LinkReply, frozen=True, tag="rows-file"):
    """The rows (``HostRowsReport``) are in the sealed file that comes along."""

    size: _Number


class RequestFailed(m.LinkFailure, frozen=True, tag="failed"):
    """The request was not carried out."""

    error: ErrorReport

    @override
    def to_error(self) -> VitrailError:
        return error_of(self.error)


class CancelRequest(m.Message, frozen=True, tag="cancel"):
    """Nobody waits for the reply to a request any more: give it up, and reply."""

    request: _Number


class ErrorReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An error of either end, whole: it is shown as if there were one process."""

    kind: str
    message: str
    hint: str = ""
    where: str = ""


GIVEN_UP = ErrorReport("upstream", "the request was cancelled")
"""The reply to a request that was cancelled before it was carried out."""


class StreamRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stream of the host's, and when it began (seconds since 1970)."""

    lease: _LeaseId
    service: _Short
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


FromHost: TypeAlias = (
    m.LeaseBegun | m.LeaseEnded | m.StartProgress | m.DevicesChanged | m.DeviceEnded
    | HostReady | HostFailed | OfferStream | LendArena | CutStream | FolderLost
    | MachineStopped
    | m.RequestDone | m.SandboxStarted | m.DevicesReply | m.DeviceHanded
    | FolderMounted | FolderState | HostRowsFile | RequestFailed | CancelRequest
)  # fmt: skip
FromViewer: TypeAlias = (
    m.StartSandbox | StopLease | SuspendLease | m.DevicesAsked | m.DeviceAttach | m.DeviceDetach
    | m.LinkPing | StreamOver | MountFolder | ReleaseFolder | UnmountFolder
    | ForgetFolders | HostRowsAsked | RefuseNew | EndHost
    | m.RequestDone | RequestFailed | CancelRequest
)  # fmt: skip

REPLIES: Mapping[type[m.LinkRequest], type[m.LinkReply]] = MappingProxyType(
    {
        m.StartSandbox: m.SandboxStarted,
        m.DevicesAsked: m.DevicesReply,
        m.DeviceAttach: m.DeviceHanded,
        MountFolder: FolderMounted,
        UnmountFolder: FolderState,
        ForgetFolders: FolderState,
        HostRowsAsked: HostRowsFile,
    }
)
"""The reply to a request, if it is not ``RequestDone``; or ``RequestFailed``."""

WITH_DESCRIPTOR = (OfferStream, LendArena, HostRowsFile)
"""The messages with which exactly one descriptor comes; with the others none does."""

_from_host: msgspec.json.Decoder[FromHost] = msgspec.json.Decoder(FromHost)
_from_viewer: msgspec.json.Decoder[FromViewer] = msgspec.json.Decoder(FromViewer)
_encoder = msgspec.json.Encoder()


def replies_to(request: m.LinkRequest) -> tuple[type[m.LinkReply], ...]:
    """Return the types of reply that a request may have."""
    return REPLIES.get(type(request), m.RequestDone), RequestFailed


def decode(untrusted_body: bytes, sender: Role) -> FromHost | FromViewer:
    """Return the message, if ``sender`` may send it.  Raises PeerError."""
    decoder = _from_host if sender is Role.HOST else _from_viewer
    try:
        return decoder.decode(untrusted_body)
    except (*UNREADABLE, RefusedError) as error:
        raise PeerError(
            f"the {sender.name.lower()} sent an invalid message: {error}"
        ) from error


def encode(message: m.Message) -> bytes:
    """Return a message as the bytes of one packet."""
    return _encoder.encode(message)


def failed(error: VitrailError) -> ErrorReport:
    """Return an error for a message."""
    return ErrorReport(fault_of(error), error.message, error.hint, error.where)


def error_of(message: ErrorReport) -> VitrailError:
    """Return the error that a message tells of."""
    return from_fault(message.kind, message.message, message.hint, message.where)
