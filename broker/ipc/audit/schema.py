"""The recorded events: one frozen struct for each kind.

``event`` has what all of them have.  ``broker/data/schema/audit-event.json``
and the tables in ``docs/audit.md`` are made from here (``reference``).

The authority, the host and the viewer make events of these kinds; brokerctl prints
them.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

from broker.ipc.audit.event import VERSION, Event, EventVerdict, Scalar, encode

__all__ = [
    "KINDS",
    "VERSION",
    "AnyEvent",
    "Event",
    "EventVerdict",
    "Scalar",
    "decode",
    "encode",
]

# -- the broker and its rules --------------------------------------------------


class BrokerStart(Event, frozen=True, kw_only=True, tag="broker.start"):
    """A broker begins to accept."""

    software: str
    pid: int


class BrokerStop(Event, frozen=True, kw_only=True, tag="broker.stop"):
    """A broker ends; a start without a stop before it was a crash or a kill."""


class PolicyLoaded(Event, frozen=True, kw_only=True, tag="policy.loaded"):
    """These rules are in force from now on."""

    policy: str
    """The digest of everything that was read."""
    files: list[str] = msgspec.field(default_factory=list)
    rules: int = 0


class PolicyRefused(Event, frozen=True, kw_only=True, tag="policy.refused"):
    """Files were not taken; ``policy`` is what stays in force, if anything."""

    problems: list[str]
    """Each ``file:line:column: what``."""
    policy: str = ""


# -- leases ----------------------------------------------------------------------


class LeaseBegin(Event, frozen=True, kw_only=True, tag="lease.begin"):
    """A peer identity is a sandbox from now on."""

    record: str = ""
    pid: int = 0
    """The process whose end ends the lease; 0: a control connection."""


class LeaseEnd(Event, frozen=True, kw_only=True, tag="lease.end"):
    """The lease has ended, and every stream of it is cut."""


class LeaseRefused(Event, frozen=True, kw_only=True, tag="lease.refused"):
    """A request for a lease was refused."""


# -- streams ---------------------------------------------------------------------


class Decision(Event, frozen=True, kw_only=True, tag="decision"):
    """The whole request and the policy's verdict; before any effect."""

    verdict: EventVerdict
    rule: str = ""
    """``file:line:column`` of the rule; empty: the default, which is deny."""
    policy: str = ""
    """The digest of the policy that answered."""
    target: str = ""
    """The other sandbox; ``dom0`` or ``@adminvm`` for the user."""
    question: int = 0
    """The number of the question that was asked first, if one was."""
    answered_by: str = ""
    """The source of the answer: ``person``, ``grant``, ``timeout``."""
    answer_seconds: float = 0.0
    """From question to answer."""


class StreamOpened(Event, frozen=True, kw_only=True, tag="stream.opened"):
    """Bytes may flow from now on."""

    mode: str = ""
    """How they are moved: ``splice`` or ``copy``, for each direction; or ``worker``."""


class StreamRefused(Event, frozen=True, kw_only=True, tag="stream.refused"):
    """A connection was closed before a byte of it was taken."""


class StreamClosed(Event, frozen=True, kw_only=True, tag="stream.closed"):
    """A stream ended; ``reason`` tells an end from a cut and from an error."""

    bytes_from_sandbox: int | None
    """null: not known, as the process that counted has died."""
    bytes_to_sandbox: int | None
    seconds: float
    """From its opening to its end; the same at both of two machines."""


# -- sandboxes, programs, processes -----------------------------------------------


class SandboxStart(Event, frozen=True, kw_only=True, tag="sandbox.start"):
    """A sandbox is about to be started."""

    record: str = ""
    cid: int = 0
    image: str = ""


class Start(enum.StrEnum):
    """How a machine came up."""

    STANDBY = "standby"
    """A copy waited for this start."""
    FORK = "fork"
    """The memory is its parent's, which its siblings share, until it writes."""
    COPY = "copy"
    """The memory of a machine that had booted was copied."""
    BOOT = "boot"


class SandboxMachine(Event, frozen=True, kw_only=True, tag="sandbox.machine"):
    """How the machine of a sandbox came up; ``reason``: why not faster."""

    how: Start


class SandboxStop(Event, frozen=True, kw_only=True, tag="sandbox.stop"):
    """A sandbox is gone."""

    seconds: float = 0.0


class SandboxSuspend(Event, frozen=True, kw_only=True, tag="sandbox.suspend"):
    """The user suspends a sandbox: its programs stop, and its windows stay."""


class SandboxResume(Event, frozen=True, kw_only=True, tag="sandbox.resume"):
    """A suspended sandbox runs again, on the user's request."""


class SandboxFailed(Event, frozen=True, kw_only=True, tag="sandbox.failed"):
    """A sandbox did not come up, or has lost something; ``step`` is what failed."""

    step: str


class ProgramStarted(Event, frozen=True, kw_only=True, tag="program.started"):
    """A program was asked for inside a sandbox; arguments are not recorded."""

    program: int
    name: str


class ProgramExited(Event, frozen=True, kw_only=True, tag="program.exited"):
    """The guest reports the program's end: exit code, or minus the signal's number."""

    program: int
    code: int


class Process(enum.StrEnum):
    """The processes beside us whose death is an event."""

    BROKER = "broker"
    """The broker's process, which holds the streams and the machines."""
    PUMP = "pump"
    WORKER = "worker"
    FORK_SERVER = "fork-server"
    TEMPLATE = "template"
    """Its name in older logs."""
    WAYPIPE_CLIENT = "waypipe-client"
    """Of logs from before it was removed."""
    VHOST_DEVICE_VSOCK = "vhost-device-vsock"
    PORT_MUX = "port-mux"
    VMM = "vmm"
    NETWORK = "network"
    COMPOSITOR = "compositor"
    SHIPPER = "shipper"
    PROMPT = "prompt"


class ProcessDied(Event, frozen=True, kw_only=True, tag="process.died"):
    """A process of Vitrail's died without having been asked to end."""

    process: Process
    pid: int = 0
    code: int | None = None
    """Exit code, or minus the signal's number; None where we are not its parent."""


class PortTaken(Event, frozen=True, kw_only=True, tag="port.taken"):
    """Another program listens on our vsock port and may pose as this broker."""

    service: str
    port: int


class WindowHopFailed(Event, frozen=True, kw_only=True, tag="window.hop-failed"):
    """No window came up, and this is the hop where it ended."""

    hop: str


class WindowKilled(Event, frozen=True, kw_only=True, tag="window.killed"):
    """The user closes a window by force, and its application's connection with it."""

    window: int
    """Its number, as ``brokerctl windows`` lists it."""
    pid: int
    """The process that asked for it: ``brokerctl kill-window`` or ``top``."""


# -- the link between host and viewer --------------------------------------------


class LinkUp(Event, frozen=True, kw_only=True, tag="link.up"):
    """Host and viewer have proved themselves to each other: a new epoch."""

    name: str
    """The local name of the other broker, by its pinned key."""
    epoch: str = ""


class LinkDown(Event, frozen=True, kw_only=True, tag="link.down"):
    """An epoch is over, and every stream of it is cut; ``reason`` says why."""

    name: str
    epoch: str = ""
    seconds: float = 0.0


class LinkRefused(Event, frozen=True, kw_only=True, tag="link.refused"):
    """A connection of the link that proved nothing, or something wrong."""


# -- questions and grants ----------------------------------------------------------


class QuestionAsked(Event, frozen=True, kw_only=True, tag="question.asked"):
    """A user was asked."""

    question: int
    """No other question of this log has this number."""
    rule: str = ""
    policy: str = ""
    target: str = ""


class QuestionAnswered(Event, frozen=True, kw_only=True, tag="question.answered"):
    """The answer, or its replacement."""

    question: int
    answer: EventVerdict
    answered_by: str
    """``person``, ``timeout``, ``gone`` (the asker left), ``broker``."""
    seconds: float
    """From question to answer."""
    remember: str = ""
    """``once``, or how long it was granted for."""
    target: str = ""


class GrantMade(Event, frozen=True, kw_only=True, tag="grant.made"):
    """An answer that holds for more than its question."""

    grant: str
    """Its id."""
    verdict: EventVerdict
    target: str = ""
    rule: str = ""
    granted_by: str = ""
    seconds: float = 0.0
    """How long it holds; 0: until it is taken back."""


class GrantEnded(Event, frozen=True, kw_only=True, tag="grant.ended"):
    """The grant has ended: expired, revoked, or its lease or its rule is gone."""

    grant: str
    target: str = ""


# -- what crosses -------------------------------------------------------------------


class TransferBegin(Event, frozen=True, kw_only=True, tag="transfer.begin"):
    """Files or an address go to another sandbox or to the user."""

    transfer: int
    target: str
    files: int = 0
    size: int | None = None
    """Bytes, as the sender says; null: it did not."""
    mime: str = ""
    rule: str = ""
    """``file:line`` of the rule that permits it."""


class TransferReturned(Event, frozen=True, kw_only=True, tag="transfer.returned"):
    """A file that was opened for editing came back changed.

    ``before`` and ``after`` are keyed hashes of its content, comparable within one log.
    """

    transfer: int
    target: str
    """The sandbox that has edited it."""
    before: str
    after: str
    bytes: int


class TransferEnd(Event, frozen=True, kw_only=True, tag="transfer.end"):
    """The transfer has ended; ``outcome`` says how."""

    transfer: int
    target: str
    bytes: int
    seconds: float
    files: int = 0
    opened_in: str = ""
    """The sandbox that opened or received it, which a rule's target may have started."""


class DeviceAttached(Event, frozen=True, kw_only=True, tag="device.attached"):
    """A device is a sandbox's from now on; ``object`` is its name."""

    device: str
    """Bus, vendor and product, as ``usb 1050:0407``."""
    backend: str = ""


class DeviceDetached(Event, frozen=True, kw_only=True, tag="device.detached"):
    """The device is no longer attached to the sandbox."""

    device: str
    seconds: float = 0.0


class FolderShared(Event, frozen=True, kw_only=True, tag="folder.shared"):
    """A directory of the user's is mounted in a sandbox; ``object`` is its path."""

    write: bool
    """Whether the sandbox can change it."""


class FolderUnshared(Event, frozen=True, kw_only=True, tag="folder.unshared"):
    """The directory is no longer mounted in the sandbox."""

    seconds: float = 0.0


class ClipboardOffered(Event, frozen=True, kw_only=True, tag="clipboard.offered"):
    """The copy chord took a sandbox's selection; it may be pasted elsewhere."""

    mimes: list[str] = msgspec.field(default_factory=list)
    selection: str = ""
    """``clipboard``, ``primary`` or ``drag``."""
    bytes: int = 0
    """The size of all types together."""
    digest: str = ""
    """As in ``clipboard.pasted``."""


class ClipboardPasted(Event, frozen=True, kw_only=True, tag="clipboard.pasted"):
    """Content goes from ``sandbox`` to ``target``; ``@adminvm`` is the user's own."""

    target: str
    mime: str = ""
    """The first type; ``mimes`` among the details are all, where there are more."""
    selection: str = ""
    bytes: int = 0
    digest: str = ""
    """Keyed hash of the content; only where the setting asks for it, since short
    secrets can be guessed by a holder of the key."""
    rule: str = ""
    """``file:line`` of the rule that let it."""


class ClipboardEnded(Event, frozen=True, kw_only=True, tag="clipboard.ended"):
    """A copy or paste failed, or the copied or pasted content was wiped."""

    target: str = ""
    mimes: list[str] = msgspec.field(default_factory=list)
    bytes: int = 0
    rule: str = ""


class MicrophoneOn(Event, frozen=True, kw_only=True, tag="microphone.on"):
    """A sandbox hears the microphone from now on."""


class MicrophoneOff(Event, frozen=True, kw_only=True, tag="microphone.off"):
    """The sandbox no longer hears the microphone."""

    seconds: float
    bytes: int = 0


class CameraOn(Event, frozen=True, kw_only=True, tag="camera.on"):
    """A sandbox uses the camera from now on."""


class CameraOff(Event, frozen=True, kw_only=True, tag="camera.off"):
    """The sandbox no longer uses the camera."""

    seconds: float


class ScreenOn(Event, frozen=True, kw_only=True, tag="screen.on"):
    """A sandbox sees a screen or window of the desktop, or shares one of its windows."""

    shows: Literal["screen", "window", "own-window"] = "screen"
    """`screen` or `window` of the desktop; `own-window`: its end has the `stream`."""
    width: int = 0
    """Pixels; 0: not known, as of its windows."""
    height: int = 0


class ScreenOff(Event, frozen=True, kw_only=True, tag="screen.off"):
    """The sandbox no longer sees it."""

    seconds: float


class LockdownChanged(Event, frozen=True, kw_only=True, tag="lockdown.changed"):
    """The user has begun, widened or lifted a lockdown."""

    locked: bool
    networks: bool
    """Whether networks are denied, too."""


class NotificationShown(Event, frozen=True, kw_only=True, tag="notification.shown"):
    """A notification of a sandbox is shown on the desktop, or has changed there."""

    notification: int
    urgency: int
    """0 low, 1 normal, 2 critical."""
    size: int
    """Bytes of its title and text."""
    buttons: int


class NotificationAnswered(
    Event, frozen=True, kw_only=True, tag="notification.answered"
):
    """The user has clicked on a sandbox's notification, or pressed a button of it."""

    notification: int


# -- the log itself -------------------------------------------------------------------


class LogMigrated(Event, frozen=True, kw_only=True, tag="audit.migrated"):
    """The log was one of an older version.

    Events before this one were not sealed while they were written.
    """

    from_version: int
    events: int


class LogGap(Event, frozen=True, kw_only=True, tag="audit.gap"):
    """``count`` events could not be recorded and are lost.

    With a ``count`` of 0 and a reason: this log is in memory, the real one is gone.
    """

    seconds: float
    """From the first one to now."""
    last: str = ""
    """The kind of the last one."""


class LogPruned(Event, frozen=True, kw_only=True, tag="audit.pruned"):
    """Old events were removed, as retention wants it: all up to ``last``."""

    first: int
    """The number of the first event removed now."""
    last: int
    """The number of the last event removed."""
    leaves: bool
    """Whether their leaf hashes are kept, so that a holder of a copy of an event
    can still prove it."""


class LogConflict(Event, frozen=True, kw_only=True, tag="audit.conflict"):
    """A log and a checkpoint of it do not agree; ``peer`` is who keeps it."""

    size: int
    """The checkpoint's."""
    note: str = ""


Refusal = (
    StreamRefused | LeaseRefused | LinkRefused | ClipboardEnded | Decision | LogConflict
)
"""Events that are counted where they come often."""

AnyEvent = (
    BrokerStart
    | BrokerStop
    | PolicyLoaded
    | PolicyRefused
    | LeaseBegin
    | LeaseEnd
    | LeaseRefused
    | Decision
    | StreamOpened
    | StreamRefused
    | StreamClosed
    | SandboxStart
    | SandboxMachine
    | SandboxStop
    | SandboxSuspend
    | SandboxResume
    | SandboxFailed
    | ProgramStarted
    | ProgramExited
    | ProcessDied
    | PortTaken
    | WindowHopFailed
    | WindowKilled
    | LinkUp
    | LinkDown
    | LinkRefused
    | QuestionAsked
    | QuestionAnswered
    | GrantMade
    | GrantEnded
    | TransferBegin
    | TransferReturned
    | TransferEnd
    | DeviceAttached
    | DeviceDetached
    | FolderShared
    | FolderUnshared
    | ClipboardOffered
    | ClipboardPasted
    | ClipboardEnded
    | MicrophoneOn
    | MicrophoneOff
    | CameraOn
    | CameraOff
    | ScreenOn
    | ScreenOff
    | LockdownChanged
    | NotificationShown
    | NotificationAnswered
    | LogMigrated
    | LogGap
    | LogPruned
    | LogConflict
)

KINDS: tuple[str, ...] = tuple(kind.__struct_config__.tag for kind in AnyEvent.__args__)

_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def decode(body: bytes | str) -> AnyEvent:
    """Return an event as it was recorded.

    Raises msgspec.DecodeError for an event that this version does not know.
    """
    return _decoder.decode(body)
