"""The rows of the methods that the authority alone calls.

They are in no table of the control socket.  The host serves them.
"""

from __future__ import annotations

from broker.ipc.control.method import Method, Owner, table
from broker.ipc.control.types import leases

CUT_NETWORKS = Method(
    "CutNetworks",
    leases.CutNetworksRequest,
    leases.CutNetworksAnswer,
    Owner.HOST,
    "Cut or restore the networks of all sandboxes.",
)

AUTHORITY_METHODS = table(globals())
