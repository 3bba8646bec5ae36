"""The sandbox that a user names in a request, among those that run."""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.names import sandboxes_named
from broker.ipc.control.types.faults import NotFoundError
from policy.suggestions import did_you_mean


def one_lease(untrusted_name: str, leases: Iterable[Lease]) -> Lease:
    """Return the one running sandbox that a name means, its own or its record's.

    Raises NotFoundError where none runs, or several do.
    """
    known = list(leases)
    pairs = [(lease.sandbox, lease.record) for lease in known]
    named = sandboxes_named(untrusted_name, pairs)
    if not named:
        raise not_running(untrusted_name, pairs)
    if len(named) > 1:
        raise NotFoundError(
            f"'{printable(untrusted_name, 64)}' has {len(named)} sandboxes",
            hint=f"name one of them: {', '.join(named)}",
        )
    return next(lease for lease in known if lease.sandbox == named[0])


def not_running(untrusted_name: str, pairs: Iterable[tuple[str, str]]) -> NotFoundError:
    """Return the error for a name that no running (sandbox, record) has."""
    near = did_you_mean(untrusted_name, [name for pair in pairs for name in pair])
    return NotFoundError(
        f"no sandbox '{printable(untrusted_name, 64)}' runs",
        hint=near or "'brokerctl status' lists the running ones",
    )
