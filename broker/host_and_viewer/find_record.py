"""Finding a record by its name.

The host finds the record of a lease or a launch, the viewer that of a run.
"""

from __future__ import annotations

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.names import SandboxName
from broker.wire.faults import NotFoundError
from policy.records.model import Record, RecordSet


def find_record(records: RecordSet, name: SandboxName) -> Record:
    """Find a record by name.  Raises RefusedError that names the mistake in it."""
    if name in records.broken:
        problem = records.broken[name]
        raise RefusedError(
            f"the record '{name}' has an error: {problem.message}",
            where=problem.where,
            hint="correct the file; to check it, run 'brokerctl policy check'",
        )
    record = records.records.get(name)
    if record is None:
        known = ", ".join(sorted(records.records)) or "none"
        raise NotFoundError(
            f"no sandbox or record is named '{printable(name)}'",
            hint=f"use one of the records {known}, or add a file NAME.toml to "
            "~/.config/vitrail/sandboxes.d (see 'brokerctl policy schema')",
        )
    return record
