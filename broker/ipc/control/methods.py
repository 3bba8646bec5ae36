"""The table of methods: the interface of a broker at its control socket.

One row for each method of ``io.vitrail.Broker``.  The server dispatches by the row, both
clients call by it, and ``docs.tables.control`` writes the interface description from it.
The handler is marked ``@serves(ROW)`` where its process implements it.  The rows of
``host_methods``, ``launch_methods`` and ``shared_methods`` are in the table, too: the
host's process has no others.
"""

from __future__ import annotations

from broker.ipc.control import api
from broker.ipc.control.api import INTERFACE, Nothing
from broker.ipc.control.host_methods import *
from broker.ipc.control.launch_methods import *
from broker.ipc.control.method import AnyMethod, Method, Owner, table
from broker.ipc.control.shared_methods import *
from broker.wire.row import Absence

_VIEWER = "run the command on its viewer"
_PERSON = "run the command on its viewer, where the user is"


def _host_lacks(what: str, hint: str = _VIEWER) -> Absence:
    return Absence("host", f"this broker is a host: {what}", hint)


_STARTS = _host_lacks(
    "it does not start programs", "run 'brokerctl run {request.record}' on its viewer"
)
_PROGRAMS = _host_lacks("it does not run programs")
_FILES = _host_lacks("it does not open files")
_SCREEN = _host_lacks("it has no screen")
_QUESTIONS = _host_lacks("it does not ask questions", _PERSON)
_CLIPBOARD = _host_lacks("it has no clipboard", _PERSON)
_DEVICES = Absence(
    "host",
    "this broker does not assign devices",
    "run the command on the viewer, which decides and lists this host's devices",
)
_FOLDERS = Absence(
    "host",
    "this broker does not share folders: sandboxes and your files are on different machines",
    "run the command on the viewer, where your files are",
)

# -- the rows --------------------------------------------------------------------------

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
    "Open or copy the user's files or an address; returns the target.",
    absent=(_FILES,),
    waits=True,
)
RUN_INPUT = Method(
    "RunInput",
    api.RunInputRequest,
    Nothing,
    Owner.VIEWER,
    "Pass input to a program; returns when it was sent to the guest.",
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
SUSPEND = Method(
    "Suspend",
    api.SuspendRequest,
    api.SuspendAnswer,
    Owner.VIEWER,
    "Suspend or resume sandboxes; returns when that is done.",
    absent=(
        _host_lacks("it suspends no machines", "to end one, run 'brokerctl stop'"),
    ),
    waits=True,
)
PORTAL_USE = Method(
    "PortalUse",
    api.PortalUseRequest,
    api.PortalUseAnswer,
    Owner.VIEWER,
    "Tell whether rules may allow all calls of programs that use the portal.",
    absent=(_SCREEN,),
)
WINDOWS = Method(
    "Windows",
    api.WindowsRequest,
    api.WindowsAnswer,
    Owner.VIEWER,
    "List the windows of all sandboxes, or of one; with more, again after each change.",
    absent=(_SCREEN,),
)
WINDOW_CLOSE = Method(
    "WindowClose",
    api.WindowCloseRequest,
    Nothing,
    Owner.VIEWER,
    "Close or kill a window; returns when the request was sent.",
    absent=(_SCREEN,),
)
NETWORK = Method(
    "Network",
    api.NetworkRequest,
    api.NetworkAnswer,
    Owner.VIEWER,
    "List the open flows of sandboxes whose flows are decided by rules.",
    absent=(_host_lacks("the viewer decides flows"),),
)
FORWARD = Method(
    "Forward",
    api.ForwardRequest,
    api.ForwardItem,
    Owner.VIEWER,
    "With more: forward a port of this machine to a sandbox, until the caller disconnects.",
    absent=(_host_lacks("the viewer forwards ports"),),
    waits=True,
)
SOUND = Method(
    "Sound",
    api.SoundRequest,
    api.SoundAnswer,
    Owner.VIEWER,
    "List or change the sound of sandboxes; returns when a change is in effect.",
    absent=(_host_lacks("it has no sound server"),),
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
    Owner.AUTHORITY,
    "With more: send events of the audit log as they are recorded.",
    absent=(_host_lacks("it does not send events"),),
    waits=True,
    paced=True,
)
PENDING = Method(
    "Pending",
    Nothing,
    api.PendingAnswer,
    Owner.AUTHORITY,
    "List the questions that wait for the user.",
    absent=(_QUESTIONS,),
)
ANSWER = Method(
    "Answer",
    api.QuestionAnswerRequest,
    Nothing,
    Owner.AUTHORITY,
    "Answer a question on behalf of the user.",
    absent=(_QUESTIONS,),
)
GRANT_LIST = Method(
    "GrantList",
    Nothing,
    api.GrantsAnswer,
    Owner.AUTHORITY,
    "List the remembered answers (grants).",
    absent=(_QUESTIONS,),
)
GRANT_REVOKE = Method(
    "GrantRevoke",
    api.GrantRevokeRequest,
    api.GrantsAnswer,
    Owner.AUTHORITY,
    "Revoke grants; returns those that ended.",
    absent=(_QUESTIONS,),
)
LOCKDOWN = Method(
    "Lockdown",
    api.LockdownRequest,
    api.LockdownAnswer,
    Owner.AUTHORITY,
    "Begin, lift or show a lockdown; returns when everything that it denies was cut.",
)
CLIPBOARD = Method(
    "Clipboard",
    Nothing,
    api.ClipboardStatus,
    Owner.VIEWER,
    "Return the held and the offered content, and the key bindings.",
    absent=(_CLIPBOARD,),
)
CLIPBOARD_CLEAR = Method(
    "ClipboardClear",
    Nothing,
    Nothing,
    Owner.VIEWER,
    "Wipe copied content, and withdraw pasted content; returns when both are done.",
    absent=(_CLIPBOARD,),
)
CLIPBOARD_CHORDS = Method(
    "ClipboardChords",
    Nothing,
    api.ClipboardStatus,
    Owner.VIEWER,
    "Read the user's key bindings again.",
    absent=(_CLIPBOARD,),
)
NOTIFICATIONS = Method(
    "Notifications",
    api.NotificationsRequest,
    api.NotificationsAnswer,
    Owner.VIEWER,
    "List the notifications that sandboxes have shown; can clear the list.",
    absent=(_SCREEN,),
)
DEVICES = Method(
    "Devices",
    Nothing,
    api.DevicesAnswer,
    Owner.VIEWER,
    "List plugged-in devices, and the sandboxes that use them.",
    absent=(_DEVICES,),
)
DEVICE_ATTACH = Method(
    "DeviceAttach",
    api.DeviceAttachRequest,
    api.DeviceAnswer,
    Owner.VIEWER,
    "Attach a device; returns when it is attached.",
    absent=(_DEVICES,),
)
DEVICE_DETACH = Method(
    "DeviceDetach",
    api.DeviceDetachRequest,
    api.DeviceAnswer,
    Owner.VIEWER,
    "Detach a device; returns when it is detached.",
    absent=(_DEVICES,),
)
FOLDERS = Method(
    "Folders",
    Nothing,
    api.FoldersAnswer,
    Owner.VIEWER,
    "List the directories that are shared with sandboxes.",
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
    "Stop sharing a directory; returns when it is unmounted.",
    absent=(_FOLDERS,),
)

TABLE = table(globals())
"""All rows by their name."""


def row_of(name: str) -> AnyMethod | None:
    """Return the row of a method by its name on the wire, if it is in the table."""
    interface, _, word = name.rpartition(".")
    return TABLE.get(word) if interface == INTERFACE else None
