"""Sandboxes that are not kept: which they are, and the end of their logs."""

from __future__ import annotations

from collections.abc import Callable

from broker.core.files.trees import remove_tree
from broker.core.lease import Lease
from broker.core.names import SandboxName
from broker.core.paths import Paths
from broker.ipc.in_thread import in_thread
from policy.records.model import Record


def is_disposable(lease: Lease, record: Record | None) -> bool:
    """Return whether a sandbox is a disposable, by its record or its name."""
    if record is None:  # a record with a typo, for example
        return lease.sandbox != lease.record
    return record.viewer.sandbox_class == "disposable"


async def remove_logs(
    lease: Lease, find_record: Callable[[SandboxName], Record | None], paths: Paths
) -> None:
    """Remove the logs of an ended sandbox whose record does not keep them."""
    # guard: a host removes no logs of another record's sandbox
    names = (lease.record, lease.sandbox)
    records = [record for name in names if (record := find_record(name)) is not None]
    keep = not is_disposable(lease, None)
    if records:
        keep = any(record.host.keep_logs for record in records)
    if not keep:
        await in_thread(remove_tree, paths.logs(lease.sandbox))
