"""The rows of the methods that a broker of each role answers.

The host or the viewer serves them; brokerctl calls them.
"""

from __future__ import annotations

from broker.ipc.control.method import Method, Owner, table
from broker.ipc.control.types.base import Nothing, StopAnswer, StopRequest, Version
from broker.ipc.control.types.status import Status

GET_VERSION = Method(
    "GetVersion", Nothing, Version, Owner.AUTHORITY, "Return the broker's version."
)
STATUS = Method(
    "Status", Nothing, Status, Owner.AUTHORITY, "Return the data of brokerctl status."
)
STOP = Method(
    "Stop",
    StopRequest,
    StopAnswer,
    Owner.VIEWER,
    "Stop sandboxes; returns when they have stopped.",
    waits=True,
)
SHUTDOWN = Method(
    "Shutdown",
    Nothing,
    Nothing,
    Owner.AUTHORITY,
    "Begin to stop the broker and all that it started; returns at once.",
)

SHARED_METHODS = table(globals())
