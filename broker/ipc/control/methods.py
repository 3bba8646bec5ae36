"""The table of methods: the interface of a broker behind its control socket.

One row for each method of ``io.vitrail.Broker``: its name, its types, the process that
owns it, and the roles that lack it.  The server dispatches by the row, both clients
call by it, and ``docs.tables.control`` writes the interface description from it.
The handler is marked ``@serves(ROW)`` where its process implements it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec

from broker.ipc.control import api
from broker.ipc.control.api import INTERFACE, Caller, Emit, Nothing

_Request = TypeVar("_Request", bound=msgspec.Struct)
_Answer = TypeVar("_Answer", bound=msgspec.Struct)
_Part = TypeVar("_Part")


class Owner(Enum):
    """The process that answers a method."""

    AUTHORITY = "authority"
    HOST = "host"
    VIEWER = "viewer"


@dataclass(frozen=True)
class Absence:
    """Why the brokers of a role do not answer a method, and where it is answered."""

    role: str
    message: str
    hint: str
    """May name fields of the request: ``{request.record}``."""


@dataclass(frozen=True)
class Method(Generic[_Request, _Answer]):
    """A row of the table."""

    name: str
    """Without the interface."""
    request: type[_Request]
    answer: type[_Answer]
    """Of the answer, and of each item that precedes it."""
    owner: Owner
    summary: str
    """For the interface description."""
    absent: tuple[Absence, ...] = field(default=(), kw_only=True)
    waits: bool = field(default=False, kw_only=True)
    """Whether it may take as long as a machine or a user; else a client gives up."""
    paced: bool = field(default=False, kw_only=True)
    """Whether a client may take its items as slowly as it likes: they come as fast
    as it reads, and end when it hangs up."""
    dropped: bool = field(default=False, kw_only=True)
    """Whether a call is of no use once its client has gone, and a sandbox can make
    it last: it ends then."""

    def absence(self, role: str) -> Absence | None:
        """Return why a role does not answer this method; None where it does."""
        return next((one for one in self.absent if one.role == role), None)


@dataclass(frozen=True)
class Exchange(Generic[_Answer]):
    """One call in progress: the caller, and the receiver of items."""

    caller: Caller
    more: bool
    """Whether the client takes items before the answer."""
    emit: Emit[_Answer]
    """Sends an item; does nothing unless ``more``."""


Handler = Callable[[_Part, Exchange[_Answer], _Request], Awaitable[_Answer]]
_ROW = "_vitrail_control_row"


def serves(
    row: Method[_Request, _Answer],
) -> Callable[[Handler[_Part, _Answer, _Request]], Handler[_Part, _Answer, _Request]]:
    """Mark the handler of a method.

    A handler may raise RefusedError (also NotFoundError), SetupError, UpstreamError or
    PeerError, which reach the client as they are.  One that is called with ``more`` is
    cancelled when its client goes away; the others finish.
    """

    def mark(
        handler: Handler[_Part, _Answer, _Request],
    ) -> Handler[_Part, _Answer, _Request]:
        setattr(handler, _ROW, row)
        return handler

    return mark


def served_by(part: object) -> dict[str, str]:
    """Return the methods of a part: the name of each row with its handler's name."""
    found: dict[str, str] = {}
    for attribute in dir(type(part)):
        row = getattr(getattr(type(part), attribute), _ROW, None)
        if row is not None:
            found[row.name] = attribute
    return found


# -- the roles that lack a method ------------------------------------------------------

_VIEWER = "type it on its viewer"
_PERSON = "type it on its viewer, where the user is"


def _host_lacks(what: str, hint: str = _VIEWER) -> Absence:
    return Absence("host", f"this broker is a host: {what}", hint)


_STARTS = _host_lacks(
    "it starts no programs", "type 'brokerctl run {request.record}' on its viewer"
)
_PROGRAMS = _host_lacks("it runs no programs")
_FILES = _host_lacks("it opens no files")
_SCREEN = _host_lacks("it has no screen")
_QUESTIONS = _host_lacks("it asks no questions", _PERSON)
_CLIPBOARD = _host_lacks("it has no clipboard", _PERSON)
_LEASES = Absence(
    "viewer",
    "this broker is a viewer: it gives no leases",
    "type it on the host, which owns the machines",
)
_DEVICES = Absence(
    "host",
    "this broker hands out no devices",
    "type it on the viewer, which decides; it lists this host's devices",
)
_FOLDERS = Absence(
    "host",
    "this broker shares no folders: sandboxes and your files are on two machines",
    "type it on the viewer, where your files are",
)
_LAUNCHES = tuple(
    Absence(
        role,
        "this broker leases no containers and boxes by their launchers",
        "vitrail-local does, where host and viewer are one machine",
    )
    for role in ("host", "viewer")
)

# -- the rows --------------------------------------------------------------------------

GET_VERSION = Method(
    "GetVersion", Nothing, api.Version, Owner.AUTHORITY, "Which broker this is."
)
RUN = Method(
    "Run",
    api.RunRequest,
    api.RunItem,
    Owner.VIEWER,
    "Run a program; returns started, or exited if asked to wait.",
    absent=(_STARTS,),
    waits=True,
    paced=True,
)
OPEN = Method(
    "Open",
    api.OpenRequest,
    api.OpenItem,
    Owner.VIEWER,
    "Open or copy the user's own files or an address; returns where.",
    absent=(_FILES,),
    waits=True,
)
RUN_INPUT = Method(
    "RunInput",
    api.RunInputRequest,
    Nothing,
    Owner.VIEWER,
    "Pass input to a program; returns when the guest has been sent it.",
    absent=(_PROGRAMS,),
    waits=True,
    dropped=True,
)
RUN_RESIZE = Method(
    "RunResize",
    api.RunResizeRequest,
    Nothing,
    Owner.VIEWER,
    "Set the size of a program's terminal.",
    absent=(_PROGRAMS,),
)
STOP = Method(
    "Stop",
    api.StopRequest,
    api.StopAnswer,
    Owner.VIEWER,
    "End sandboxes; returns when they are gone.",
    waits=True,
)
SHUTDOWN = Method(
    "Shutdown",
    Nothing,
    Nothing,
    Owner.AUTHORITY,
    "Begin to end the broker, with all that it started; returns at once.",
)
STATUS = Method(
    "Status", Nothing, api.Status, Owner.AUTHORITY, "Everything for brokerctl status."
)
WINDOWS = Method(
    "Windows",
    api.WindowsRequest,
    api.WindowsAnswer,
    Owner.VIEWER,
    "The windows of all sandboxes, or of one; with more, again after each change.",
    absent=(_SCREEN,),
)
WINDOW_CLOSE = Method(
    "WindowClose",
    api.WindowCloseRequest,
    Nothing,
    Owner.VIEWER,
    "Close or kill a window; returns when the order was sent.",
    absent=(_SCREEN,),
)
NETWORK = Method(
    "Network",
    api.NetworkRequest,
    api.NetworkAnswer,
    Owner.VIEWER,
    "The open flows of sandboxes whose flows are decided.",
    absent=(_host_lacks("the viewer decides flows"),),
)
FORWARD = Method(
    "Forward",
    api.ForwardRequest,
    api.ForwardItem,
    Owner.VIEWER,
    "With more: forward a port of this machine to a sandbox's, until it hangs up.",
    absent=(_host_lacks("the viewer forwards ports"),),
    waits=True,
)
LEASE_ACQUIRE = Method(
    "LeaseAcquire",
    api.LeaseRequest,
    api.LeaseItem,
    Owner.HOST,
    "Register a peer; with more, for as long as the caller stays.",
    absent=(_LEASES,),
)
MACHINE_EVENT = Method(
    "MachineEvent",
    api.MachineEventRequest,
    api.MachineEventAnswer,
    Owner.HOST,
    "A launcher's hook reports a step of a machine of its own.",
    absent=(_LEASES,),
    waits=True,
)
LEASE_LIST = Method(
    "LeaseList", Nothing, api.LeaseListAnswer, Owner.HOST, "All live leases."
)
LEASE_RELEASE = Method(
    "LeaseRelease",
    api.LeaseReleaseRequest,
    Nothing,
    Owner.HOST,
    "End a lease.",
    absent=(_LEASES,),
)
LAUNCH_PREPARE = Method(
    "LaunchPrepare",
    api.LaunchPrepareRequest,
    api.LaunchAnswer,
    Owner.HOST,
    "Prepare the launch of a container or box.",
    absent=_LAUNCHES,
)
LAUNCH_BOX = Method(
    "LaunchBox",
    api.LaunchBoxRequest,
    api.LaunchBoxAnswer,
    Owner.HOST,
    "How the box of a record is started.",
    absent=_LAUNCHES,
)
LAUNCH_BIND = Method(
    "LaunchBind",
    api.LaunchBindRequest,
    api.LeaseItem,
    Owner.HOST,
    "Lease it to its first process; returns when its sockets exist.",
    absent=_LAUNCHES,
)
LAUNCH_END = Method(
    "LaunchEnd",
    api.LaunchEndRequest,
    Nothing,
    Owner.HOST,
    "End it; returns when its streams are cut.",
    absent=_LAUNCHES,
)
AUDIT_PRUNE = Method(
    "AuditPrune",
    api.AuditPruneRequest,
    api.AuditPruneAnswer,
    Owner.AUTHORITY,
    "Remove old events from the audit log.",
    waits=True,
)
EVENTS = Method(
    "Events",
    api.EventsRequest,
    api.EventItem,
    Owner.VIEWER,
    "With more: events of the audit log as they are recorded.",
    absent=(_host_lacks("it sends no events"),),
    waits=True,
    paced=True,
)
PENDING = Method(
    "Pending",
    Nothing,
    api.PendingAnswer,
    Owner.AUTHORITY,
    "Questions that wait for the user.",
    absent=(_QUESTIONS,),
)
ANSWER = Method(
    "Answer",
    api.QuestionAnswerRequest,
    Nothing,
    Owner.AUTHORITY,
    "Answer a question in the user's place.",
    absent=(_QUESTIONS,),
)
GRANT_LIST = Method(
    "GrantList",
    Nothing,
    api.GrantsAnswer,
    Owner.AUTHORITY,
    "Answers that are remembered.",
    absent=(_QUESTIONS,),
)
GRANT_REVOKE = Method(
    "GrantRevoke",
    api.GrantRevokeRequest,
    api.GrantsAnswer,
    Owner.AUTHORITY,
    "Take grants back; returns those that ended.",
    absent=(_QUESTIONS,),
)
LOCKDOWN = Method(
    "Lockdown",
    api.LockdownRequest,
    api.LockdownAnswer,
    Owner.AUTHORITY,
    "Begin, lift or show a lockdown; returns when what it denies was cut.",
)
CLIPBOARD = Method(
    "Clipboard",
    Nothing,
    api.ClipboardStatus,
    Owner.VIEWER,
    "The held and the offered content, and the chords.",
    absent=(_CLIPBOARD,),
)
CLIPBOARD_CLEAR = Method(
    "ClipboardClear",
    Nothing,
    Nothing,
    Owner.VIEWER,
    "Wipe it, and withdraw pasted content; returns when that is done.",
    absent=(_CLIPBOARD,),
)
CLIPBOARD_CHORDS = Method(
    "ClipboardChords",
    Nothing,
    api.ClipboardStatus,
    Owner.VIEWER,
    "Read again which chords the user wants.",
    absent=(_CLIPBOARD,),
)
NOTIFICATIONS = Method(
    "Notifications",
    api.NotificationsRequest,
    api.NotificationsAnswer,
    Owner.VIEWER,
    "What sandboxes have shown on the desktop; can forget it.",
    absent=(_SCREEN,),
)
DEVICES = Method(
    "Devices",
    Nothing,
    api.DevicesAnswer,
    Owner.VIEWER,
    "Plugged-in devices, and the sandboxes that have them.",
    absent=(_DEVICES,),
)
DEVICE_ATTACH = Method(
    "DeviceAttach",
    api.DeviceAttachRequest,
    api.DeviceAnswer,
    Owner.VIEWER,
    "Attach a device; returns when it is there.",
    absent=(_DEVICES,),
)
DEVICE_DETACH = Method(
    "DeviceDetach",
    api.DeviceDetachRequest,
    api.DeviceAnswer,
    Owner.VIEWER,
    "Take a device back; returns when that is so.",
    absent=(_DEVICES,),
)
FOLDERS = Method(
    "Folders",
    Nothing,
    api.FoldersAnswer,
    Owner.VIEWER,
    "Directories that sandboxes have.",
    absent=(_FOLDERS,),
)
FOLDER_SHARE = Method(
    "FolderShare",
    api.FolderShareRequest,
    api.FolderAnswer,
    Owner.VIEWER,
    "Share a directory with a sandbox; returns when it is mounted.",
    absent=(_FOLDERS,),
)
FOLDER_UNSHARE = Method(
    "FolderUnshare",
    api.FolderUnshareRequest,
    api.FolderAnswer,
    Owner.VIEWER,
    "Take a directory back; returns when it is unmounted.",
    absent=(_FOLDERS,),
)

TABLE: Mapping[str, Method[Any, Any]] = MappingProxyType(
    {row.name: row for row in list(globals().values()) if isinstance(row, Method)}
)
"""All rows by their name, in the order above."""


def row_of(name: str) -> Method[Any, Any] | None:
    """Return the row of a method by its name on the wire, if it is in the table."""
    interface, _, word = name.rpartition(".")
    return TABLE.get(word) if interface == INTERFACE else None
