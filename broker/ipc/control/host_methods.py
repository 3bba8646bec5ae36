"""The rows of the methods that each host's process answers: leases."""

from __future__ import annotations

from broker.ipc.control.method import Absence, Method, Owner, table
from broker.ipc.control.types import leases
from broker.ipc.control.types.base import Nothing

_LEASES = Absence(
    "viewer",
    "this broker is a viewer: it grants no leases",
    "type it on the host, which owns the machines",
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


HOST_METHODS = table(globals())
