"""Finding a record by its name."""

from __future__ import annotations

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.names import SandboxName
from broker.ipc.control.types.faults import NotFoundError
from policy.records.model import Record, RecordSet


def find_record(records: RecordSet, name: SandboxName) -> Record:
    """Find a record by name.  Raises RefusedError that names the mistake in it."""
    if name in records.broken:
        problem = records.broken[name]
        raise RefusedError(
            f"the record '{name}' has an error: {problem.message}",
            where=problem.where,
            hint="'brokerctl policy check' shows it; correct the file",
        )
    record = records.records.get(name)
    if record is None:
        known = ", ".join(sorted(records.records)) or "none"
        raise NotFoundError(
            f"no sandbox and no record is named '{printable(name)}'",
            hint=f"records: {known}; a new one is a file NAME.toml in "
            "~/.config/vitrail/sandboxes.d ('brokerctl policy schema')",
        )
    return record
