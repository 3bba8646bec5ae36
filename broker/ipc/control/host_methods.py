"""The rows of the methods that each host's process answers: leases."""

from __future__ import annotations

from broker.ipc.control.method import Method, Owner, table
from broker.ipc.control.types import leases
from broker.ipc.control.types.base import Nothing
from broker.wire.row import Absence

_LEASES = Absence(
    "viewer",
    "this broker is a viewer: it grants no leases",
    "run the command on the host, which owns the machines",
)
LEASE_ACQUIRE = Method(
    "LeaseAcquire",
    leases.LeaseRequest,
    leases.LeaseItem,
    Owner.HOST,
    "Register a peer; with more, until the caller disconnects.",
    absent=(_LEASES,),
)
MACHINE_EVENT = Method(
    "MachineEvent",
    leases.MachineEventRequest,
    leases.MachineEventAnswer,
    Owner.HOST,
    "Report a step of a machine; called by the launcher's hook.",
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


HOST_METHODS = table(globals())
