"""Paths that no record may bind: Vitrail's own, and the programs of another sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from broker.core.errors import RefusedError
from broker.core.files.planted_links import is_chosen_in, private_directory
from broker.core.paths import Paths
from policy.errors import Problem
from policy.records.model import Record, RecordSet
from policy.records.places import is_held, root_tree, writable

_ACCESS = {"bind_read_only": "read", "bind_read_write": "change"}
_HINT = "bind directories that contain only files for the sandbox"


def bind_problems(
    paths: Paths, record: Record, records: RecordSet
) -> Iterator[Problem]:
    """Yield a problem for each path that a record must not bind.

    ``records``: those of other sandboxes, with the directories of their programs.
    """
    for key, path in _binds(record):
        private = private_directory(path, paths)
        if private is not None:
            text = f"cannot bind {path}: it contains, or is inside, the broker's directory {private}"
            yield _problem(record, key, text, _HINT)
    for other in records.records.values() if is_held(record.host.launch) else ():
        tree = root_tree(other)
        if tree is None or other.name == record.name:
            continue
        for path in writable(record):
            if is_chosen_in(tree, path):
                text = f"cannot let the sandbox write to {path}: the record '{other.name}' has its programs (rootfs) in {tree}"
                hint = f"bind another directory, or change 'rootfs' in [launch] of {other.name}.toml"
                yield _problem(record, "bind_read_write", text, hint)


def hidden_binds(record: Record) -> Iterator[Problem]:
    """Yield a warning for each path that a record binds in a hidden directory of the home."""
    home = Path.home().resolve()
    for key, path in _binds(record):
        real = path.resolve()
        inside = real.relative_to(home).parts if real.is_relative_to(home) else ()
        if inside and inside[0].startswith("."):
            text = f"the sandbox can {_ACCESS[key]} {path}: hidden directories of your home contain keys, settings and programs that start at login"
            yield _problem(record, key, text, _HINT)


def _binds(record: Record) -> Iterator[tuple[str, Path]]:
    """Yield each path that a record binds, with the key that names it."""
    launch = record.host.launch
    if is_held(launch):
        yield from (("bind_read_only", path) for path in launch.read_only)
        yield from (("bind_read_write", path) for path in launch.read_write)


def _problem(record: Record, key: str, message: str, hint: str) -> Problem:
    spot = record.spot(f"launch.{key}")
    return Problem(spot.file, spot.span, message, "", hint, spot.line)


def refuse_binds(paths: Paths, record: Record, records: RecordSet) -> None:
    """Refuse to start a record that binds such a path.  Raises RefusedError."""
    problem = next(bind_problems(paths, record, records), None)
    # guard: no record binds Vitrail's directories or another's programs
    if problem is not None:
        raise RefusedError(problem.message, where=problem.where, hint=problem.hint)
