"""What is recorded: one frozen struct for each kind of event.

An event is flat JSON, so that ``jq`` and a database can ask for any field.
Fields that hold their default are left out.  The caller fills in what
happened; the store stamps version, sequence, times, boot and broker.

Content never goes in here: no bytes of a stream, no clipboard, no arguments
of a program; names, sizes, verdicts and reasons only.  A sandbox's own words
inside a reason are bounded and escaped where they enter it.
"""

from __future__ import annotations

import enum

import msgspec

from broker.core import limits
from broker.core.errors import InternalError

VERSION = 1
"""Of the schema.  A new kind or a new field with a default keeps it; a changed
meaning raises it."""

Scalar = str | int | float | bool | list[str]
"""What ``detail`` may hold: nothing nested, so that it stays a table."""


class Verdict(enum.StrEnum):
    """What policy said."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


class Event(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """What every event has; empty or 0 means: does not apply."""

    # Stamped by the store, whatever the caller wrote.
    version: int = 0
    sequence: int = 0
    """Counts the events of this log from 1 without a gap."""
    time_ns: int = 0
    """UTC, nanoseconds since 1970."""
    boot: str = ""
    """The kernel's boot id; ``monotonic_ns`` compares only within one boot."""
    monotonic_ns: int = 0
    broker: str = ""
    """The role that wrote it: ``local``, ``host`` or ``viewer``."""

    sandbox: str = ""
    lease: str = ""
    generation: int = 0
    service: str = ""
    stream: int = 0
    peer: str = ""
    """How the kernel knows the far end, as ``hybrid:…`` or ``cid 42``."""
    outcome: str = ""
    reason: str = ""
    count: int = 1
    """More than 1: that many equal refusals, counted into this event."""
    detail: dict[str, Scalar] = {}

    @property
    def kind(self) -> str:
        """The kind's name, as ``stream.closed``."""
        tag = self.__struct_config__.tag
        if not isinstance(tag, str):
            raise InternalError("an event without a kind")
        return tag


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
    files: list[str] = []
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
    """Of the process whose end is the lease's end; 0: a control connection."""


class LeaseEnd(Event, frozen=True, kw_only=True, tag="lease.end"):
    """It is no longer, and every stream of it is cut."""


class LeaseRefused(Event, frozen=True, kw_only=True, tag="lease.refused"):
    """Somebody asked for a lease and got none."""


# -- streams ---------------------------------------------------------------------


class Decision(Event, frozen=True, kw_only=True, tag="decision"):
    """What was asked, in whole, and what policy said; before any effect."""

    verdict: Verdict
    rule: str = ""
    """``file:line:column`` of the rule; empty: the default, which is deny."""
    policy: str = ""
    """The digest of the policy that answered."""
    target: str = ""


class StreamOpened(Event, frozen=True, kw_only=True, tag="stream.opened"):
    """Bytes may flow from now on."""

    mode: str = ""
    """How they are moved: ``splice`` or ``copy``, for each direction."""


class StreamRefused(Event, frozen=True, kw_only=True, tag="stream.refused"):
    """A connection was closed before a byte of it was taken."""


class StreamClosed(Event, frozen=True, kw_only=True, tag="stream.closed"):
    """A stream ended; ``reason`` tells an end from a cut and from an error."""

    bytes_from_sandbox: int
    bytes_to_sandbox: int
    seconds: float


# -- sandboxes, programs, processes -----------------------------------------------


class SandboxStart(Event, frozen=True, kw_only=True, tag="sandbox.start"):
    """A sandbox is about to be started."""

    record: str = ""
    cid: int = 0
    image: str = ""


class SandboxStop(Event, frozen=True, kw_only=True, tag="sandbox.stop"):
    """A sandbox is gone."""

    seconds: float = 0.0


class SandboxFailed(Event, frozen=True, kw_only=True, tag="sandbox.failed"):
    """A sandbox did not come up; ``step`` is the one that failed."""

    step: str


class ProgramStarted(Event, frozen=True, kw_only=True, tag="program.started"):
    """A program was asked for inside a sandbox; arguments are not recorded."""

    program: int
    name: str


class ProgramExited(Event, frozen=True, kw_only=True, tag="program.exited"):
    """It ended, says the guest: exit code, or minus the signal's number."""

    program: int
    code: int


class Process(enum.StrEnum):
    """The processes beside us whose death is an event."""

    PUMP = "pump"
    WORKER = "worker"
    TEMPLATE = "template"
    WAYPIPE_CLIENT = "waypipe-client"
    VHOST_DEVICE_VSOCK = "vhost-device-vsock"
    VMM = "vmm"
    NETWORK = "network"
    COMPOSITOR = "compositor"


class ProcessDied(Event, frozen=True, kw_only=True, tag="process.died"):
    """One of them died, and nobody had asked it to."""

    process: Process
    pid: int = 0
    code: int | None = None
    """Exit code, or minus the signal's number; None where we are not its parent."""


class WindowHopFailed(Event, frozen=True, kw_only=True, tag="window.hop-failed"):
    """No window came up, and this is the hop where it ended."""

    hop: str


# -- the link between host and viewer --------------------------------------------


class LinkUp(Event, frozen=True, kw_only=True, tag="link.up"):
    """Host and viewer have proved themselves to each other: a new epoch."""

    name: str
    """What the other broker is called here, by its pinned key."""
    epoch: str = ""


class LinkDown(Event, frozen=True, kw_only=True, tag="link.down"):
    """An epoch is over, and every stream of it is cut; ``reason`` says why."""

    name: str
    epoch: str = ""
    seconds: float = 0.0


class LinkRefused(Event, frozen=True, kw_only=True, tag="link.refused"):
    """A connection of the link that proved nothing, or something wrong."""


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
    | SandboxStop
    | SandboxFailed
    | ProgramStarted
    | ProgramExited
    | ProcessDied
    | WindowHopFailed
    | LinkUp
    | LinkDown
    | LinkRefused
)

KINDS: tuple[str, ...] = tuple(kind.__struct_config__.tag for kind in AnyEvent.__args__)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def encode(event: Event) -> bytes:
    """Return the event as one line of JSON, without the line's end.

    Raises InternalError beyond ``limits.AUDIT_EVENT_BYTES`` and for text that
    is no Unicode: what goes into an event is bounded and escaped where it
    enters the broker.
    """
    try:
        body = _encoder.encode(event)
    except UnicodeEncodeError as error:
        raise InternalError(f"an event {event.kind} with unescaped text") from error
    if len(body) > limits.AUDIT_EVENT_BYTES:
        raise InternalError(
            f"an event {event.kind} of {len(body)} bytes "
            f"(at most {limits.AUDIT_EVENT_BYTES})"
        )
    return body


def decode(body: bytes | str) -> AnyEvent:
    """Return an event as it was recorded.

    Raises msgspec.DecodeError for one that this version does not know.
    """
    return _decoder.decode(body)
