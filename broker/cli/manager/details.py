"""Read a sandbox's record and permissions for its page."""

from __future__ import annotations

from broker.cli.manager.following import SandboxRow
from broker.cli.manager.permissions import PermissionRow, permission_rows
from broker.cli.policy.records import read_records
from broker.core.paths import Paths
from policy.records.model import Record


def details_of(
    paths: Paths, row: SandboxRow
) -> tuple[Record | None, list[PermissionRow]]:
    """Read a sandbox's record, None if it has no usable one, and its permissions."""
    records = read_records(paths)
    record = records.records.get(row.record)
    if row.broken:
        return record, []
    return record, permission_rows(paths, row.name, row.record)
