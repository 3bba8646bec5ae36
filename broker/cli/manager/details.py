"""Read a sandbox's record, permissions and home for its page."""

from __future__ import annotations

from dataclasses import dataclass

from broker.cli.homes.home_copies import HomeCopies
from broker.cli.images.record_images import micro_vm_of
from broker.cli.manager.following import SandboxRow
from broker.cli.manager.permissions import PermissionRow, permission_rows
from broker.cli.policy.records import read_records
from broker.core.errors import VitrailError
from broker.core.language.notices import in_users_language
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
        return SandboxDetails(
            record, permissions, home_problem=in_users_language(str(error))
        )
    return SandboxDetails(record, permissions, home)


def possible_actions(row: SandboxRow, record: Record | None) -> frozenset[str]:
    """Return which of 'program', 'shell' and 'output' are possible for a sandbox.

    'program' starts another one: in a machine, or as another box of a record.  A box or
    container has no agent that starts programs, and no log of its output.
    """
    runs = row.status is not None
    if record is None:
        return frozenset({"program", "output", *(["shell"] if runs else [])})
    kind = record.host.launch.kind
    once = row.name != row.record or record.host.sandbox_class == "persistent"
    possible = {
        "program": not (kind.box and runs and once),
        "shell": runs and not kind.box,
        "output": not kind.holds,
    }
    return frozenset(name for name, is_possible in possible.items() if is_possible)


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
