"""``brokerctl df``: disk space, and what nothing uses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import rich_click as click

from broker.cli import render
from broker.cli.homes.home_copies import HomeCopies
from broker.cli.images.installed import list_images
from broker.cli.policy.records import read_records
from broker.cli.run.connect import (
    ask_status,
    broker_runs,
    offline_paths,
    warn_unless_found,
)
from broker.cli.sandboxes.leftovers import images_in_use
from broker.core.files.trees import disk_usage
from broker.core.paths import Paths
from broker.host.homes.store import TREE
from policy.records.model import RecordSet

LOGS, PARENT, IMAGE = "logs", "parent machine", "image"


@dataclass(frozen=True)
class Stored:
    """One thing on disk.  ``unused`` says why nothing needs it; empty: it is used."""

    kind: str
    name: str
    bytes: int
    unused: str = ""
    path: str = ""
    unbounded: bool = False
    """Whether programs of a sandbox may write into it without a limit of Vitrail's."""


def stored(paths: Paths) -> list[Stored]:
    """Return everything below the state and cache directories that has a name."""
    records = read_records(paths)
    return [
        *_homes(paths, records),
        *_images(paths, records),
        *_parents(paths, records),
        *_logs(paths, records),
        *_files(paths),
    ]


def _homes(paths: Paths, records: RecordSet) -> Iterator[Stored]:
    """Yield homes and snapshots with their sizes."""
    store = HomeCopies(paths.homes)
    for home in store.all() if store.root.is_dir() else []:
        unused = "" if _has_record(records, home.name) else "no record has this name"
        where, free = str(home.directory), home.meta.kind == TREE
        yield Stored("home", home.name, home.used(), unused, where, free)
        for snapshot in store.snapshots(home.name):
            size = disk_usage(snapshot.directory)
            name = f"{home.name} {snapshot.name}"
            yield Stored("snapshot", name, size, "", str(snapshot.directory))


def _images(paths: Paths, records: RecordSet) -> Iterator[Stored]:
    used = images_in_use(records.records.values())
    for image in list_images(paths):
        # A record with a mistake may start from any image.
        unused = "" if image.name in used or records.broken else "no record uses it"
        size = image.disk_bytes()
        yield Stored(IMAGE, image.name, size, unused, str(image.directory))


def _parents(paths: Paths, records: RecordSet) -> Iterator[Stored]:
    """Yield the disk space of parent machines."""
    for path in _folders(paths.parents):
        unused = "" if _has_record(records, path.name) else "no record has this name"
        yield Stored(PARENT, path.name, disk_usage(path), unused, str(path))


def _logs(paths: Paths, records: RecordSet) -> Iterator[Stored]:
    """Yield the disk space of logs; asks a running broker which sandboxes run."""
    running = {s.name for s in ask_status().sandboxes} if broker_runs(paths) else set()
    for path in _folders(paths.logs("x").parent):
        there = path.name in running or _has_record(records, path.name)
        unused = "" if there else "its sandbox has ended"
        yield Stored(LOGS, path.name, disk_usage(path), unused, str(path))


def _files(paths: Paths) -> Iterator[Stored]:
    """Yield the audit log and fetched programs with their sizes."""
    found = [Path(f"{paths.audit}{end}") for end in ("", "-wal", "-shm")]
    size = sum(path.stat().st_blocks * 512 for path in found if path.exists())
    if size:
        yield Stored("audit log", "", size, "", str(paths.audit))
    if paths.tools.is_dir():
        yield Stored("programs", "", disk_usage(paths.tools), "", str(paths.tools))


def _has_record(records: RecordSet, name: str) -> bool:
    return name in records.records or name in records.broken


def _folders(directory: Path) -> list[Path]:
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted(p for p in found if p.is_dir() and not p.name.startswith("."))


@click.command("df")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, as_json: bool) -> None:
    """Show the disk space of homes, images and logs, and which of them are unused.

    A running broker is not required.
    """
    warn_unless_found()
    found = stored(offline_paths())
    if as_json:
        render.json_line([asdict(one) for one in found])
        return
    if not found:
        render.note("Vitrail stores nothing on disk")
        return
    rows = [(one.kind, one.name, render.size(one.bytes), one.unused) for one in found]
    render.table(["WHAT", "NAME", "ON DISK", "UNUSED BECAUSE"], rows)
    total = render.size(sum(one.bytes for one in found))
    free = render.size(sum(one.bytes for one in removable(found, images=True)))
    render.note(f"{total}; to free {free}, run 'brokerctl prune --images'")
    unbounded = [one for one in found if one.unbounded]
    if unbounded:
        left = render.size(shutil.disk_usage(unbounded[0].path).free)
        render.note(
            "warning: no size limit applies to the homes of "
            f"{', '.join(one.name for one in unbounded)}: their programs can fill "
            f"the file system, which has {left} free"
        )


def removable(found: list[Stored], *, images: bool) -> list[Stored]:
    """Return unused things that can be made again, or whose sandbox has ended.

    A home is never among them.
    """
    kinds = {LOGS, PARENT, *([IMAGE] if images else [])}
    return [one for one in found if one.unused and one.kind in kinds]
