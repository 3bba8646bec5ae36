"""Read a sandbox's record, permissions and home for its page."""

from __future__ import annotations

from dataclasses import dataclass

from broker.cli.homes.home_copies import HomeCopies
from broker.cli.images.record_images import micro_vm_of
from broker.cli.manager.following import SandboxRow
from broker.cli.manager.permissions import PermissionRow, permission_rows
from broker.cli.policy.records import read_records
from broker.core.errors import VitrailError
from broker.core.names import take_sandbox_name
from broker.core.paths import Paths
from broker.host.homes.store import DISK
from policy.records.model import Record


@dataclass(frozen=True, slots=True)
class HomeFacts:
    """The home of a sandbox: bytes on the disk (0: not counted), and its snapshots."""

    used: int
    snapshots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SandboxDetails:
    """All of a sandbox's page that the broker does not report.

    ``record`` is None if there is no usable one; ``home`` None if it has none, or if it
    cannot be read, with the reason in ``home_problem``.
    """

    record: Record | None
    permissions: tuple[PermissionRow, ...] = ()
    home: HomeFacts | None = None
    home_problem: str = ""


def details_of(paths: Paths, row: SandboxRow) -> SandboxDetails:
    """Read a sandbox's record, permissions and home."""
    records = read_records(paths)
    record = records.records.get(row.record)
    if row.broken:
        return SandboxDetails(record)
    permissions = tuple(permission_rows(paths, records, row.name, row.record))
    try:
        home = _home_of(paths, row.record)
    except (VitrailError, OSError) as error:
        return SandboxDetails(record, permissions, home_problem=str(error))
    return SandboxDetails(record, permissions, home)


def _home_of(paths: Paths, record: str) -> HomeFacts | None:
    store, name = HomeCopies(paths.homes), take_sandbox_name(record)
    home = store.find(name)
    if home is None:
        return None
    # To count a directory takes long.
    used = home.used() if home.meta.kind == DISK else 0
    return HomeFacts(used, tuple(str(one.name) for one in store.snapshots(name)))


def image_users(paths: Paths) -> dict[str, list[str]]:
    """Return the records that start each guest image, by its name."""
    found: dict[str, list[str]] = {}
    for record in read_records(paths).records.values():
        launch = micro_vm_of(record)
        if launch is not None:
            found.setdefault(launch.image, []).append(record.name)
    return found
