"""The rows of the methods that the host's process of ``vitrail-local`` answers: launches."""

from __future__ import annotations

from broker.ipc.control.method import Method, Owner, table
from broker.ipc.control.types import launches
from broker.ipc.control.types.base import Nothing
from broker.ipc.control.types.leases import LeaseItem
from broker.wire.row import Absence

_LAUNCHES = tuple(
    Absence(
        role,
        "this broker does not lease containers and boxes for their launchers",
        "use vitrail-local, where host and viewer are one machine",
    )
    for role in ("host", "viewer")
)

LAUNCH_PREPARE = Method(
    "LaunchPrepare",
    launches.LaunchPrepareRequest,
    launches.LaunchAnswer,
    Owner.HOST,
    "Prepare the launch of a container or box.",
    absent=_LAUNCHES,
)
LAUNCH_BOX = Method(
    "LaunchBox",
    launches.LaunchBoxRequest,
    launches.LaunchBoxAnswer,
    Owner.HOST,
    "Return how the box of a record is started.",
    absent=_LAUNCHES,
)
LAUNCH_BIND = Method(
    "LaunchBind",
    launches.LaunchBindRequest,
    LeaseItem,
    Owner.HOST,
    "Lease a launched sandbox to its first process; returns when its sockets exist.",
    absent=_LAUNCHES,
)
LAUNCH_END = Method(
    "LaunchEnd",
    launches.LaunchEndRequest,
    Nothing,
    Owner.HOST,
    "End a launch; returns when its streams are cut.",
    absent=_LAUNCHES,
)

LAUNCH_METHODS = table(globals())
