"""Types of the requests that ``brokerctl`` and other programs send to a broker.

The broker's side implements ``BrokerApi``; the server and the client of
``control`` carry it as varlink, interface ``io.vitrail.Broker``
(``broker/data/io.vitrail.Broker.varlink``; a test holds the two together).

Requests come from programs of the same user, so they are trusted to ask, and
still checked: names are names only after ``core.names`` took them.  In a
request, a field that may be null may be left out.
"""

from __future__ import annotations

from broker.control.api.asking import (
    GrantRevokeRequest,
    GrantsAnswer,
    GrantStatus,
    PendingAnswer,
    PendingQuestion,
    QuestionAnswerRequest,
)
from broker.control.api.base import (
    INTERFACE,
    Caller,
    NotFoundError,
    Nothing,
    Version,
)
from broker.control.api.broker import (
    BrokerApi,
    Emit,
)
from broker.control.api.clipboard import (
    ChordTrouble,
    ClipboardOffer,
    ClipboardStatus,
)
from broker.control.api.devices import (
    DeviceAnswer,
    DeviceAttachRequest,
    DeviceDetachRequest,
    DevicesAnswer,
    DeviceStatus,
)
from broker.control.api.folders import (
    FolderAnswer,
    FoldersAnswer,
    FolderShareRequest,
    FolderStatus,
    FolderUnshareRequest,
)
from broker.control.api.leases import (
    LaunchAnswer,
    LaunchBindRequest,
    LaunchBoxAnswer,
    LaunchBoxRequest,
    LaunchEndRequest,
    LaunchPrepareRequest,
    LeaseItem,
    LeaseListAnswer,
    LeaseReleaseRequest,
    LeaseRequest,
    LeaseStatus,
    MachineEventAnswer,
    MachineEventRequest,
)
from broker.control.api.log import (
    AuditPruneAnswer,
    AuditPruneRequest,
)
from broker.control.api.opening import OpenItem, OpenRequest
from broker.control.api.running import (
    Exited,
    Progress,
    RunInputRequest,
    RunItem,
    RunRequest,
    RunResizeRequest,
    Started,
    StopAnswer,
    StopRequest,
)
from broker.control.api.status import (
    AuditStatus,
    LimitStatus,
    LinkOther,
    LinkStatus,
    PolicyStatus,
    ProcessStatus,
    ProgramStatus,
    PumpStatus,
    SandboxStatus,
    Status,
    StreamStatus,
)
from broker.control.api.windows import (
    WindowCloseRequest,
    WindowsAnswer,
    WindowsRequest,
    WindowStatus,
)

__all__ = [
    "INTERFACE",
    "AuditPruneAnswer",
    "AuditPruneRequest",
    "AuditStatus",
    "BrokerApi",
    "Caller",
    "ChordTrouble",
    "ClipboardOffer",
    "ClipboardStatus",
    "DeviceAnswer",
    "DeviceAttachRequest",
    "DeviceDetachRequest",
    "DeviceStatus",
    "DevicesAnswer",
    "Emit",
    "Exited",
    "FolderAnswer",
    "FolderShareRequest",
    "FolderStatus",
    "FolderUnshareRequest",
    "FoldersAnswer",
    "GrantRevokeRequest",
    "GrantStatus",
    "GrantsAnswer",
    "LaunchAnswer",
    "LaunchBindRequest",
    "LaunchBoxAnswer",
    "LaunchBoxRequest",
    "LaunchEndRequest",
    "LaunchPrepareRequest",
    "LeaseItem",
    "LeaseListAnswer",
    "LeaseReleaseRequest",
    "LeaseRequest",
    "LeaseStatus",
    "LimitStatus",
    "LinkOther",
    "LinkStatus",
    "MachineEventAnswer",
    "MachineEventRequest",
    "NotFoundError",
    "Nothing",
    "OpenItem",
    "OpenRequest",
    "PendingAnswer",
    "PendingQuestion",
    "PolicyStatus",
    "ProcessStatus",
    "ProgramStatus",
    "Progress",
    "PumpStatus",
    "QuestionAnswerRequest",
    "RunInputRequest",
    "RunItem",
    "RunRequest",
    "RunResizeRequest",
    "SandboxStatus",
    "Started",
    "Status",
    "StopAnswer",
    "StopRequest",
    "StreamStatus",
    "Version",
    "WindowCloseRequest",
    "WindowStatus",
    "WindowsAnswer",
    "WindowsRequest",
]
