"""The rows of the methods that the host's process answers: leases and launches."""

from __future__ import annotations

from broker.ipc.control.method import Absence, Method, Owner, table
from broker.ipc.control.types import leases
from broker.ipc.control.types.base import Nothing

_LEASES = Absence(
    "viewer",
    "this broker is a viewer: it grants no leases",
    "type it on the host, which owns the machines",
)
_LAUNCHES = tuple(
    Absence(
        role,
        "this broker leases no containers and boxes by their launchers",
        "vitrail-local does, where host and viewer are one machine",
    )
    for role in ("host", "viewer")
)

LEASE_ACQUIRE = Method(
    "LeaseAcquire",
    leases.LeaseRequest,
    leases.LeaseItem,
    Owner.HOST,
    "Register a peer; with more, for as long as the caller stays.",
    absent=(_LEASES,),
)
MACHINE_EVENT = Method(
    "MachineEvent",
    leases.MachineEventRequest,
    leases.MachineEventAnswer,
    Owner.HOST,
    "A launcher's hook reports a step of a machine of its own.",
    absent=(_LEASES,),
    waits=True,
)
LEASE_LIST = Method(
    "LeaseList", Nothing, leases.LeaseListAnswer, Owner.HOST, "All live leases."
)
LEASE_RELEASE = Method(
    "LeaseRelease",
    leases.LeaseReleaseRequest,
    Nothing,
    Owner.HOST,
    "End a lease.",
    absent=(_LEASES,),
)
LAUNCH_PREPARE = Method(
    "LaunchPrepare",
    leases.LaunchPrepareRequest,
    leases.LaunchAnswer,
    Owner.HOST,
    "Prepare the launch of a container or box.",
    absent=_LAUNCHES,
)
LAUNCH_BOX = Method(
    "LaunchBox",
    leases.LaunchBoxRequest,
    leases.LaunchBoxAnswer,
    Owner.HOST,
    "How the box of a record is started.",
    absent=_LAUNCHES,
)
LAUNCH_BIND = Method(
    "LaunchBind",
    leases.LaunchBindRequest,
    leases.LeaseItem,
    Owner.HOST,
    "Lease it to its first process; returns when its sockets exist.",
    absent=_LAUNCHES,
)
LAUNCH_END = Method(
    "LaunchEnd",
    leases.LaunchEndRequest,
    Nothing,
    Owner.HOST,
    "End it; returns when its streams are cut.",
    absent=_LAUNCHES,
)


HOST_METHODS = table(globals())
