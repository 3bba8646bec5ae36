"""Paths that no record may bind: Vitrail's own, and the programs of another sandbox."""

from __future__ import annotations

from collections.abc import Iterator

from broker.core.errors import RefusedError
from broker.core.files.planted_links import is_chosen_in, private_directory
from broker.core.paths import Paths
from policy.errors import Problem
from policy.records.model import Record, RecordSet
from policy.records.places import is_held, root_tree, writable


def bind_problems(
    paths: Paths, record: Record, records: RecordSet
) -> Iterator[Problem]:
    """Yield a problem for each path that a record must not bind.

    ``records``: those of other sandboxes, with the directories of their programs.
    """
    launch = record.host.launch
    if not is_held(launch):
        return
    for key in ("read_only", "read_write"):
        spot = record.spot(f"launch.bind_{key}")
        for path in getattr(launch, key):
            private = private_directory(path, paths)
            if private is not None:
                yield Problem(
                    spot.file,
                    spot.span,
                    f"cannot bind {path}: it contains, or is inside, the broker's "
                    f"directory {private}",
                    hint="bind directories that contain only files for the sandbox",
                    source_line=spot.line,
                )
    spot = record.spot("launch.bind_read_write")
    for other in records.records.values():
        tree = root_tree(other)
        if tree is None or other.name == record.name:
            continue
        for path in writable(record):
            if is_chosen_in(tree, path):
                yield Problem(
                    spot.file,
                    spot.span,
                    f"cannot let the sandbox write to {path}: the record '{other.name}' "
                    f"has its programs (rootfs) in {tree}",
                    hint=f"bind another directory, or change 'rootfs' in [launch] of "
                    f"{other.name}.toml",
                    source_line=spot.line,
                )


def refuse_binds(paths: Paths, record: Record, records: RecordSet) -> None:
    """Refuse to start a record that binds such a path.  Raises RefusedError."""
    problem = next(bind_problems(paths, record, records), None)
    # guard: no record binds Vitrail's directories or another's programs
    if problem is not None:
        raise RefusedError(problem.message, where=problem.where, hint=problem.hint)
