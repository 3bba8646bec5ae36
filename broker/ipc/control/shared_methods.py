"""The rows of the methods that a broker of each role answers."""

from __future__ import annotations

from broker.ipc.control.method import Method, Owner, table
from broker.ipc.control.types.base import Nothing, StopAnswer, StopRequest, Version
from broker.ipc.control.types.status import Status

GET_VERSION = Method(
    "GetVersion", Nothing, Version, Owner.AUTHORITY, "Which broker this is."
)
STATUS = Method(
    "Status", Nothing, Status, Owner.AUTHORITY, "Everything for brokerctl status."
)
STOP = Method(
    "Stop",
    StopRequest,
    StopAnswer,
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

SHARED_METHODS = table(globals())
