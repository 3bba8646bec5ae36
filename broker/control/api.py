"""What ``brokerctl`` and other programs may ask a broker, in types.

The broker's side implements ``BrokerApi``; the server and the client of this
room carry it as varlink, interface ``io.vitrail.Broker``
(``broker/data/io.vitrail.Broker.varlink``; a test holds the two together).

Requests come from programs of the same user, so they are trusted to ask, and
still checked: names are names only after ``core.names`` took them.  In a
request, a field that may be null may be left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from broker.core.errors import RefusedError

INTERFACE = "io.vitrail.Broker"


class NotFoundError(RefusedError):
    """No such sandbox, record, lease or program."""


@dataclass(frozen=True)
class Caller:
    """Who asks: the process that connected, as the kernel said then.

    For the log only; the process may have ended, and its number be another's.
    """

    pid: int
    uid: int


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Nothing(_Request, frozen=True, kw_only=True):
    """No parameters; also the answer that has none."""


class Version(_Answer, frozen=True, kw_only=True):
    """Which broker this is."""

    version: str
    role: str
    """``local``, ``host`` or ``viewer``."""
    pid: int


# -- running ---------------------------------------------------------------------


class RunRequest(_Request, frozen=True, kw_only=True):
    """Run a program in the sandbox of a record, starting it where needed."""

    record: str
    argv: list[str] | None = None
    """None: the record's own command."""
    env: dict[str, str] | None = None
    window: bool | None = None
    """False: the program is not expected to open one."""
    wait: bool | None = None
    """Stay until the program has ended, and pass on what it prints."""


class Progress(_Answer, frozen=True, kw_only=True):
    """A step on the way to a window."""

    step: str
    state: str
    """``begun``, ``done`` or ``failed``."""
    detail: str = ""
    seconds: float = 0.0
    """Since the step began."""


class Started(_Answer, frozen=True, kw_only=True):
    """The program runs."""

    sandbox: str
    program: int


class Exited(_Answer, frozen=True, kw_only=True):
    """The program ended: exit code, or minus the signal's number."""

    sandbox: str
    program: int
    code: int


class RunItem(_Answer, frozen=True, kw_only=True):
    """One of the four; the last one of a call is ``started`` or ``exited``."""

    progress: Progress | None = None
    started: Started | None = None
    output: bytes | None = None
    """What the program wrote, hostile; base64 on the wire."""
    exited: Exited | None = None


# -- ending ----------------------------------------------------------------------


class StopRequest(_Request, frozen=True, kw_only=True):
    """End a sandbox, or every one that this broker started."""

    sandbox: str | None = None
    """None: all."""
    grace: float | None = None
    """Seconds for the machine to switch itself off; None: the broker's default."""


class StopAnswer(_Answer, frozen=True, kw_only=True):
    """Which sandboxes ended."""

    stopped: list[str]


# -- leases ----------------------------------------------------------------------


class LeaseRequest(_Request, frozen=True, kw_only=True):
    """Register a machine or container that somebody else starts.

    Exactly one of ``hybrid``, ``cid`` and ``unix`` says how it is recognised.
    """

    record: str
    sandbox: str | None = None
    """Its name while it runs; None: the record's, or a fresh one if disposable."""
    hybrid: str | None = None
    """The path of the VMM's hybrid-vsock socket."""
    cid: int | None = None
    unix: str | None = None
    """The directory of a container's sockets."""
    leader: int | None = None
    """The pid whose end is the lease's end."""
    connectors: list[int] | None = None
    """Other pids that may connect for a hybrid socket (a vhost-user backend)."""


class LeaseStatus(_Answer, frozen=True, kw_only=True):
    """A live lease."""

    id: str
    sandbox: str
    record: str
    generation: int
    peer: str
    """How it is recognised, as ``cid 42``."""
    pid: int | None = None
    """Of the process that it lives as long as; None: a control connection."""
    since: float
    """Seconds since 1970."""
    pending: bool = False
    """Granted, and its machine has not been seen running yet."""


class LeaseItem(_Answer, frozen=True, kw_only=True):
    """First the lease; when the call was to hold it, at last why it ended."""

    lease: LeaseStatus | None = None
    ended: str | None = None


class LeaseListAnswer(_Answer, frozen=True, kw_only=True):
    """All live leases, oldest first."""

    leases: list[LeaseStatus]


class AuditPruneRequest(_Request, frozen=True, kw_only=True):
    """Remove old events from the audit log."""

    keep_seconds: int | None = None
    """Those older than this; None: as the setting says."""
    max_megabytes: int | None = None


class AuditPruneAnswer(_Answer, frozen=True, kw_only=True):
    """What went."""

    removed: int


class LeaseReleaseRequest(_Request, frozen=True, kw_only=True):
    """End a lease and cut its streams; the machine is left alone."""

    id: str


# -- questions and grants ----------------------------------------------------------


class PendingQuestion(_Answer, frozen=True, kw_only=True):
    """A question that waits for the person."""

    id: int
    sandbox: str
    record: str
    label: str
    color: str
    service: str
    argument: str
    words: str
    """What the sandbox wants, in plain words."""
    details: list[str] = []
    """What it claims about it, each ``name: value``."""
    targets: list[str]
    """What may be chosen."""
    default_target: str
    """What is chosen beforehand; empty: nothing."""
    keeps: list[str]
    """How long a yes may hold: ``once``, ``time`` (``seconds``), ``session``."""
    seconds: int
    rule: str
    left: float
    """Seconds until the answer is no."""
    shown: bool
    """Whether it is on the screen now."""


class PendingAnswer(_Answer, frozen=True, kw_only=True):
    """All questions that wait, oldest first."""

    questions: list[PendingQuestion]


class QuestionAnswerRequest(_Request, frozen=True, kw_only=True):
    """Answer a question in the person's place."""

    id: int
    allow: bool
    target: str | None = None
    """None: the one chosen beforehand."""
    keep: str | None = None
    """None: once."""


class GrantStatus(_Answer, frozen=True, kw_only=True):
    """An answer that is remembered."""

    id: str
    sandbox: str
    service: str
    argument: str
    target: str
    keep: str
    """``time`` or ``session``."""
    rule: str
    left: float | None = None
    """Seconds that it still holds; None: until the sandbox stops."""
    live: int = 0
    """How much goes on by it now."""


class GrantsAnswer(_Answer, frozen=True, kw_only=True):
    """All grants, oldest first."""

    grants: list[GrantStatus]


class GrantRevokeRequest(_Request, frozen=True, kw_only=True):
    """Take grants back, and cut what goes on by them."""

    id: str | None = None
    """None: all of them."""


# -- status ------------------------------------------------------------------------


class PolicyStatus(_Answer, frozen=True, kw_only=True):
    """The rules in force."""

    digest: str = ""
    """Of the rules; on a host, which has none, of its records."""
    records: str = ""
    """Digest of the records."""
    rules: int = 0
    """How many there are."""
    kept: bool = False
    """The files have an error, and these are the last good ones, kept on disk."""
    denies_all: bool = False
    """The files have an error, and there never was a good set."""
    since: float = 0.0
    """When these rules came into force, seconds since 1970; 0: there are none."""
    problems: list[str] = []
    """Of files that were refused, each ``file:line:column: what``; at the end
    what that means."""


class ProgramStatus(_Answer, frozen=True, kw_only=True):
    """A program that runs in a sandbox."""

    program: int
    name: str
    since: float


class LimitStatus(_Answer, frozen=True, kw_only=True):
    """Something that is limited for a sandbox's windows."""

    what: str
    now: int
    most: int
    """0 for a rate: then only ``refused`` says something."""
    refused: int
    """How often it wanted more."""


class SandboxStatus(_Answer, frozen=True, kw_only=True):
    """A sandbox that has a lease or is being started or stopped."""

    name: str
    record: str
    sandbox_class: str
    """``persistent``, ``disposable`` or ``template``."""
    label: str
    color: str = ""
    state: str
    """``starting``, ``running``, ``stopping`` or ``failed``."""
    pid: int | None = None
    cid: int | None = None
    since: float
    """Seconds since 1970."""
    accel: str = ""
    image: str = ""
    image_age: float | None = None
    """Seconds since the image was built."""
    programs: list[ProgramStatus] = []
    limits: list[LimitStatus] = []
    """Of its windows, as its worker counts them; empty without one."""


class StreamStatus(_Answer, frozen=True, kw_only=True):
    """A live stream; rates are the difference of two answers."""

    stream: int
    sandbox: str
    lease: str
    service: str
    bytes_from_sandbox: int
    bytes_to_sandbox: int
    since: float
    mode: str = ""
    work: float = 0.0
    """Seconds that a worker has spent on decoding it."""


class ProcessStatus(_Answer, frozen=True, kw_only=True):
    """A process of this broker, or one that it started."""

    role: str
    """``broker``, ``pump``, ``template``, ``worker``, ``waypipe-client``, ``vmm``…"""
    pid: int
    sandbox: str = ""
    memory: int = 0
    """Bytes of memory that are this process's alone, with its share of others'."""
    jail: str = ""
    """How it is confined; empty: not at all."""


class PumpStatus(_Answer, frozen=True, kw_only=True):
    """The process that moves the bytes."""

    pid: int
    streams: int
    pipes_pooled: int = 0
    streams_total: int = 0
    bytes_total: int = 0


class AuditStatus(_Answer, frozen=True, kw_only=True):
    """The audit log's writer since the broker's start."""

    events: int
    commits: int
    failures: int
    waiting: int


# -- windows -----------------------------------------------------------------------


class WindowsRequest(_Request, frozen=True, kw_only=True):
    """Which windows; null means those of all sandboxes."""

    sandbox: str | None = None


class WindowStatus(_Answer, frozen=True, kw_only=True):
    """A window on the screen; title and application id are the guest's words.

    They are escaped, and without our prefix.  Sizes are of the content, in
    logical pixels.
    """

    sandbox: str
    window: int
    """Its number in its sandbox; never used twice."""
    title: str
    app_id: str
    width: int
    height: int
    focused: bool


class WindowsAnswer(_Answer, frozen=True, kw_only=True):
    """Windows, by sandbox, oldest first; ``silent`` sandboxes did not answer."""

    windows: list[WindowStatus]
    silent: list[str] = []


class WindowCloseRequest(_Request, frozen=True, kw_only=True):
    """Cut the connection of a window; with ``ask`` ask its application to close it."""

    sandbox: str
    window: int
    ask: bool | None = None


# -- clipboard -----------------------------------------------------------------------


class ClipboardOffer(_Answer, frozen=True, kw_only=True):
    """What was pasted and may still be taken."""

    source: str
    target: str
    seconds: float
    """Until it is taken back."""


class ChordTrouble(_Answer, frozen=True, kw_only=True):
    """A sandbox whose windows know no chords, or not both."""

    sandbox: str
    reason: str


class ClipboardStatus(_Answer, frozen=True, kw_only=True):
    """The clipboard between sandboxes; never content."""

    source: str
    """Whose content is held for a paste; empty: nobody's."""
    types: list[str]
    size: int
    """Bytes, of all types together."""
    seconds: float
    """Until it is wiped."""
    offered: list[ClipboardOffer]
    exported: str
    """Whose content the person's own selection is, as far as we know."""
    focused: str
    """The sandbox that has the keyboard; empty: none, or two say so."""
    copy_chord: str
    paste_chord: str
    preset: str
    """What the two chords are called; empty: the person's own."""
    problem: str = ""
    """Why the file that chooses chords does not hold."""
    troubles: list[ChordTrouble] = []


class LinkOther(_Answer, frozen=True, kw_only=True):
    """What the broker at the link's other end says of itself; a claim."""

    program: str
    leases: int
    streams: int
    refused: int
    """Connections and streams that it refused in this epoch."""
    up_seconds: int
    warnings: list[str] = []


class LinkStatus(_Answer, frozen=True, kw_only=True):
    """The link between a host and a viewer, seen from one end."""

    role: str
    """Of this end: ``host`` or ``viewer``."""
    endpoint: str
    """Where the viewer listens."""
    state: str
    """``up``; ``waiting`` for a host, ``dialling`` a viewer; ``down`` between."""
    since: float
    """Seconds since 1970."""
    version: int
    """Of the link, that this end speaks."""
    problem: str = ""
    """Why there is no link now, or why the last one ended."""
    name: str = ""
    """What the other broker is called here."""
    epoch: str = ""
    epochs: int = 0
    """How often the link has come up."""
    leases: int = 0
    streams: int = 0
    refused: int = 0
    """Connections that this end refused."""
    other: LinkOther | None = None


class Status(_Answer, frozen=True, kw_only=True):
    """Everything that ``brokerctl status`` shows."""

    version: str
    role: str
    pid: int
    since: float
    """Seconds since 1970."""
    monotonic: float
    """When this was taken, in seconds of the broker's monotonic clock."""
    policy: PolicyStatus
    sandboxes: list[SandboxStatus] = []
    leases: list[LeaseStatus] = []
    streams: list[StreamStatus] = []
    streams_omitted: int = 0
    """Live ones that did not fit into the answer, those that moved least."""
    processes: list[ProcessStatus] = []
    tasks: int = 0
    """Tasks of the broker, this answer's own included; steady while nothing
    changes, so a leak shows."""
    pump: PumpStatus | None = None
    audit: AuditStatus | None = None
    link: LinkStatus | None = None
    warnings: list[str] = []


_Item = TypeVar("_Item")
Emit = Callable[[_Item], Awaitable[None]]
"""Sends an item on before the last one.  Waits while the client is slow; when
the client has gone, the method is cancelled.  For a client that did not ask for
more than one answer, it does nothing."""


class BrokerApi(Protocol):
    """What a broker does for its control socket.

    Every method may raise RefusedError (also NotFoundError), SetupError,
    UpstreamError or PeerError, which reach the client as they are.  A method
    with ``emit`` is cancelled when its client goes away; the others finish.
    """

    async def version(self) -> Version:
        """Which broker this is."""
        ...

    async def run(
        self, caller: Caller, request: RunRequest, emit: Emit[RunItem]
    ) -> RunItem:
        """Run a program; returns ``started``, or ``exited`` if asked to wait."""
        ...

    async def stop(self, caller: Caller, request: StopRequest) -> StopAnswer:
        """End sandboxes; returns when they are gone."""
        ...

    async def shutdown(self, caller: Caller) -> None:
        """Begin to end the broker, with all that it started; returns at once."""
        ...

    async def status(self) -> Status:
        """Everything for ``brokerctl status``."""
        ...

    async def windows(self, request: WindowsRequest) -> WindowsAnswer:
        """The windows of all sandboxes, or of one."""
        ...

    async def close_window(self, caller: Caller, request: WindowCloseRequest) -> None:
        """End a window, kindly or not; returns when that was said."""
        ...

    async def lease(self, caller: Caller, request: LeaseRequest) -> LeaseItem:
        """Register a peer of somebody else's launcher, and return the lease.

        It lives as long as ``request.leader``, which is not None here.
        """
        ...

    async def hold_lease(
        self, caller: Caller, request: LeaseRequest, emit: Emit[LeaseItem]
    ) -> LeaseItem:
        """Register a peer, emit the lease, and return why it ended.

        It ends with the leader, if one is named, and when this is cancelled.
        """
        ...

    async def leases(self) -> LeaseListAnswer:
        """All live leases."""
        ...

    async def release(self, caller: Caller, request: LeaseReleaseRequest) -> None:
        """End a lease."""
        ...

    async def prune(
        self, caller: Caller, request: AuditPruneRequest
    ) -> AuditPruneAnswer:
        """Remove old events from the audit log."""
        ...

    async def pending(self) -> PendingAnswer:
        """What waits for the person."""
        ...

    async def answer(self, caller: Caller, request: QuestionAnswerRequest) -> None:
        """Answer a question in the person's place."""
        ...

    async def grants(self) -> GrantsAnswer:
        """Answers that are remembered."""
        ...

    async def revoke(self, caller: Caller, request: GrantRevokeRequest) -> GrantsAnswer:
        """Take grants back; returns those that ended."""
        ...

    async def clipboard(self) -> ClipboardStatus:
        """What is held, on offer, and the chords."""
        ...

    async def clear_clipboard(self, caller: Caller) -> None:
        """Wipe it, and take back what was pasted; returns when that is so."""
        ...

    async def choose_chords(self, caller: Caller) -> ClipboardStatus:
        """Read again which chords the person wants."""
        ...
