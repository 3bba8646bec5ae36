"""Messages between host and viewer on control: types, table, encoding.

JSON objects with a ``type`` key; every field is typed and bounded, a field or
type that is not here is refused, except a field of a report.  A request carries a separate number
(``request``), counted by its sender from 1 and only upwards; exactly one
reply answers it, of a type that ``REPLIES`` names.

Texts come from the other broker, which may be taken over: they are one line
of printable characters (or the message is refused), and still only a claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from typing_extensions import override

from broker.core.decoding import OneLineMessage
from broker.core.errors import RefusedError, VitrailError
from broker.core.escape import fit
from broker.core.launch_changes import LaunchChanges
from broker.core.lease import Lease
from broker.core.limits import audit as audit_limits
from broker.core.limits import link as limits
from broker.core.names import take_lease_id, take_sandbox_name
from broker.ipc.devices.messages import DeviceItem
from broker.net.link.wire_types import LinkRefusedError, RefusalReason, Role
from broker.wire.faults import FAULTS, from_fault

_Number = Annotated[int, msgspec.Meta(ge=1, le=limits.LINK_COUNTER)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=limits.LINK_COUNTER)]
_Text = Annotated[str, msgspec.Meta(max_length=limits.LINK_TEXT_CHARACTERS)]
_Short = Annotated[str, msgspec.Meta(max_length=120)]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,30}\Z")]
_LeaseId = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{16}\Z")]
_Note = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=audit_limits.LINK_NOTE_CHARACTERS)]],
    msgspec.Meta(max_length=audit_limits.LINK_NOTE_LINES),
]
_Notes = Annotated[
    list[_Note], msgspec.Meta(max_length=audit_limits.AUDIT_WITNESS_KEYS)
]
_Hash = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9+/]{43}=\Z")]
_Proof = Annotated[list[_Hash], msgspec.Meta(max_length=audit_limits.LINK_PROOF_HASHES)]
_Grace = Annotated[float, msgspec.Meta(ge=0, le=limits.LINK_GRACE_SECONDS)]

_Fault = Literal["refused", "upstream", "setup", "internal"]
_FAULTS: tuple[_Fault, ...] = ("refused", "upstream", "setup")


class Message(
    OneLineMessage,
    msgspec.Struct,
    frozen=True,
    tag_field="type",
    forbid_unknown_fields=True,
):
    """Base of all messages.

    A report says ``forbid_unknown_fields=False``: a newer end may add an optional field
    to it under the same version, and an older one shows less.  Never a message that has
    an effect or a decision in it: a field that narrows an order (``network`` of a start)
    must be obeyed or refused, not ignored.
    """


class LinkRequest(Message, frozen=True):
    """A message that wants a reply."""

    request: _Number


class LinkReply(Message, frozen=True):
    """The only reply to the request of that number."""

    request: _Number


class LinkFailure(LinkReply, frozen=True):
    """The request was not executed."""

    def to_error(self) -> VitrailError:
        """The same kind of error at this end."""
        raise NotImplementedError


# -- from the host --------------------------------------------------------------


class LeaseBegun(LinkRequest, frozen=True, tag="lease-begun"):
    """Announce a lease.  Its streams may be opened once this is answered Done.

    Refused means: no streams; the host withdraws it with LeaseEnded.
    """

    lease: _LeaseId
    sandbox: _Name
    record: _Name
    generation: _Number
    peer: _Short
    """How the host recognised the peer, for the log."""

    @classmethod
    def of(cls, request: int, lease: Lease, peer: str) -> LeaseBegun:
        """The announcement of a lease."""
        return cls(
            request, lease.id, lease.sandbox, lease.record, lease.generation, fit(peer)
        )

    def to_lease(self) -> Lease:
        """Convert the message to a lease, with its names validated."""
        return Lease(
            take_lease_id(self.lease),
            take_sandbox_name(self.sandbox),
            take_sandbox_name(self.record),
            self.generation,
        )


class LeaseEnded(LinkRequest, frozen=True, tag="lease-ended"):
    """Withdraw a lease; answered Done when every stream of it is cut."""

    lease: _LeaseId
    reason: _Text


class StartProgress(
    LinkRequest, frozen=True, tag="progress", forbid_unknown_fields=False
):
    """The current step of a start that takes time, for the user who waits."""

    start: _Number
    """The viewer's number of that StartSandbox."""
    text: _Text


class DevicesChanged(LinkRequest, frozen=True, tag="devices-changed"):
    """A reply to DevicesAsked would be another one by now."""


class DeviceEnded(
    LinkRequest, frozen=True, tag="device-ended", forbid_unknown_fields=False
):
    """An attachment has ended, not by DeviceDetach."""

    attachment: _Short
    reason: _Text


# -- from the viewer --------------------------------------------------------------


class StartSandbox(LinkRequest, frozen=True, tag="start"):
    """Start the sandbox of one of the host's records; no command travels.

    The others are for this start, within the record's values; None leaves them.
    """

    record: _Name
    memory_mib: _Count | None = None
    cpus: _Count | None = None
    network: Literal["none", "user"] | None = None
    image: _Name | None = None
    for_sandbox: bool = False
    """A sandbox of the viewer's has asked for it, and the user has not."""

    @property
    def changes(self) -> LaunchChanges:
        """Differences of this start from the record."""
        return LaunchChanges(self.memory_mib, self.cpus, self.network, self.image)


class StopSandbox(LinkRequest, frozen=True, tag="stop"):
    """End a sandbox, ``grace`` seconds after asking it to go."""

    lease: _LeaseId
    grace: _Grace
    reason: _Text


class DevicesAsked(LinkRequest, frozen=True, tag="devices-asked"):
    """List the host's devices with a number above ``after``, lowest first."""

    after: _Count = 0


class DeviceAttach(LinkRequest, frozen=True, tag="device-attach"):
    """Hand a device to the sandbox of a lease, within the host's ``devices.toml``."""

    device: _Number
    lease: _LeaseId


class DeviceDetach(LinkRequest, frozen=True, tag="device-detach"):
    """Take a device back; answered Done when it is, also when it was before.

    By its number: it may be about an attach that has no reply yet.
    """

    device: _Number


# -- from either --------------------------------------------------------------------


class Cut(LinkRequest, frozen=True, tag="cut"):
    """Cut one stream: numbered by its opener, in this epoch."""

    opened_by: Literal["host", "viewer"]
    stream: _Number
    reason: _Text


class LinkPing(LinkRequest, frozen=True, tag="ping"):
    """Check that the other end still answers."""


class StatusAsked(LinkRequest, frozen=True, tag="status-asked"):
    """Request for the other end's state, which 'brokerctl status' shows."""


class WitnessNote(LinkRequest, frozen=True, tag="witness"):
    """Keep this checkpoint of the sender's audit log, a signed note by lines.

    ``proof`` shows that the log then begins with the log as of ``since``, the
    size of the newest checkpoint that is held (RFC 6962, 2.1.2, hashes as base64).
    A ``since`` of 0: the sender does not know which is held.  ``keys`` are the
    certificates of the log's keys from the first one on that the other end has
    not reported to know.
    """

    note: _Note
    since: _Count = 0
    proof: _Proof = []
    keys: _Notes = []


class Witnessed(LinkReply, frozen=True, tag="witnessed"):
    """Whether it is kept, and the state of that log as known here.

    ``note`` is the newest checkpoint that was held before, ``known`` counts the
    keys whose certificates are known.
    """

    note: _Note
    kept: bool = True
    known: _Count = 0


class RequestDone(LinkReply, frozen=True, tag="done"):
    """The request was executed."""


class RequestRefused(
    LinkFailure, frozen=True, tag="refused", forbid_unknown_fields=False
):
    """The request was not executed; with the text of the other end's error."""

    fault: _Fault
    message: _Text
    hint: _Text = ""

    @classmethod
    def of(cls, request: int, error: VitrailError) -> RequestRefused:
        """Return the reply that carries an error of ours to the other end."""
        fault: _Fault = next(
            (fault for fault in _FAULTS if isinstance(error, FAULTS[fault])), "internal"
        )
        limit = limits.LINK_TEXT_CHARACTERS
        return cls(request, fault, fit(error.message, limit), fit(error.hint, limit))

    @override
    def to_error(self) -> VitrailError:
        return from_fault(self.fault, self.message, self.hint, "the other broker")


class SandboxStarted(LinkReply, frozen=True, tag="started"):
    """The sandbox has this lease, announced before."""

    lease: _LeaseId


class StatusReply(LinkReply, frozen=True, tag="status", forbid_unknown_fields=False):
    """Numbers, not lists: the leases were all announced."""

    program: _Short
    """Name and release of the broker."""
    leases: _Count
    streams: _Count
    refused: _Count
    """Connections and streams refused in this epoch."""
    up_seconds: _Count
    warnings: Annotated[list[_Text], msgspec.Meta(max_length=limits.LINK_WARNINGS)] = []
    clock: _Count = 0
    """Seconds since 1970, as it is there; 0: of a release that does not say it."""


class DevicesReply(LinkReply, frozen=True, tag="devices"):
    """Some devices, in the order of their numbers; ``more``: ask after the last one."""

    devices: Annotated[list[DeviceItem], msgspec.Meta(max_length=limits.LINK_DEVICES)]
    more: bool = False
    strict: bool = False
    source: _Short = ""
    problems: Annotated[list[_Text], msgspec.Meta(max_length=limits.LINK_WARNINGS)] = []


class DeviceHanded(LinkReply, frozen=True, tag="device-handed"):
    """The device is in the sandbox."""

    attachment: _Short
    backend: _Short


class Bye(Message, frozen=True, tag="bye", forbid_unknown_fields=False):
    """The last record of an end that closes on purpose; no reply.

    An end of the connection without one is a loss (or a deliberate cut).
    """

    reason: _Text


FromHost = (
    LeaseBegun | LeaseEnded | StartProgress | Cut | LinkPing | StatusAsked | RequestDone | RequestRefused
    | SandboxStarted | StatusReply | Bye | WitnessNote | Witnessed | DevicesChanged | DeviceEnded | DevicesReply
    | DeviceHanded
)  # fmt: skip
FromViewer = (
    StartSandbox | StopSandbox | Cut | LinkPing | StatusAsked | RequestDone | RequestRefused | StatusReply | Bye
    | WitnessNote | Witnessed | DevicesAsked | DeviceAttach | DeviceDetach
)  # fmt: skip

# A reply of another type, or to another number, ends the connection.
REPLIES: Mapping[type[LinkRequest], tuple[type[LinkReply], ...]] = {
    LeaseBegun: (RequestDone, RequestRefused),
    LeaseEnded: (RequestDone,),  # there is no way to refuse an end
    StartProgress: (RequestDone,),  # also when no caller waits any more
    StartSandbox: (SandboxStarted, RequestRefused),
    StopSandbox: (RequestDone, RequestRefused),
    Cut: (RequestDone,),  # also when it had ended before
    LinkPing: (RequestDone,),
    StatusAsked: (StatusReply, RequestRefused),
    WitnessNote: (Witnessed, RequestRefused),
    DevicesAsked: (DevicesReply, RequestRefused),
    DeviceAttach: (DeviceHanded, RequestRefused),
    DeviceDetach: (RequestDone, RequestRefused),
    DevicesChanged: (RequestDone,),
    DeviceEnded: (RequestDone,),
}

_from_host: msgspec.json.Decoder[FromHost] = msgspec.json.Decoder(FromHost)
_from_viewer: msgspec.json.Decoder[FromViewer] = msgspec.json.Decoder(FromViewer)
_encoder = msgspec.json.Encoder()


def replies_to(request: LinkRequest) -> tuple[type[LinkReply], ...]:
    """Return the types of reply that a request may have."""
    return REPLIES[type(request)]


def decode(untrusted_body: bytes, sender: Role) -> Message:
    """Return the message, if ``sender`` may send it.  Raises LinkRefusedError."""
    decoder = _from_host if sender is Role.HOST else _from_viewer
    try:
        return decoder.decode(untrusted_body)
    except (msgspec.DecodeError, ValueError, RefusedError, RecursionError) as error:
        # RecursionError: a message nested thousands deep is as bad as none.
        raise LinkRefusedError(
            f"the {sender.name.lower()} sent an invalid control message: {error}",
            reason=RefusalReason.MALFORMED,
        ) from error


def encode(message: Message) -> bytes:
    """The message as bytes, without checking it (``ControlChannel`` does)."""
    return _encoder.encode(message)
