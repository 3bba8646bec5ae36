"""Which running sandbox a request names, where it has to be one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from broker.core.escape import printable
from broker.core.lease import Lease
from broker.core.names import sandboxes_named
from broker.host_and_viewer.sandbox_names import not_running
from broker.wire.faults import NotFoundError


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
        raise several_run(untrusted_name, named)
    return next(lease for lease in known if lease.sandbox == named[0])


def several_run(untrusted_name: str, sandboxes: Sequence[str]) -> NotFoundError:
    """Return the error for a name that several running sandboxes have."""
    return NotFoundError(
        f"{len(sandboxes)} sandboxes of '{printable(untrusted_name, 64)}' are running",
        hint=f"name one of them: {', '.join(sandboxes)}",
    )
