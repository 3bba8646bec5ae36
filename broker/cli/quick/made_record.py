"""A temporary record for a program without one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from broker.core.files.planted_links import named_path
from broker.core.files.replace_file import replace_file
from broker.core.paths import Paths
from policy.records.folder import FOLDER

_RECORD = """\
# Written by 'brokerctl run', which removes this file when it exits.
class = "persistent"
display = "allow"
tags = ["box"]
[label]
name = "{label}"
colour = "red"
[window]
title_prefix = "{title}"
[audio]
playback = "allow"
microphone = "deny"
[launch]
kind = "{kind}"
"""


def new_name() -> str:
    """Return a name that no other run has."""
    return f"box-{os.urandom(3).hex()}"


def leads_through_links(argv: tuple[str, ...], here: Path) -> bool:
    """Return whether an argument names a file by way of a symbolic link."""
    paths = [Path(os.path.normpath(here / word)) for word in argv[1:] if word]
    return any(os.path.realpath(p) != str(p) for p in paths if os.path.lexists(p))


def with_files(
    argv: tuple[str, ...], here: Path, writable: Iterable[Path] = ()
) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Return the command with whole paths, and the files that it names.

    A word that is the path of a regular file of the user's is readable inside;
    the user has named it.  Files below /usr are there already.  ``writable`` are
    directories that sandboxes may write to: see ``planted_links``.
    """
    words, files = [argv[0]], []
    for word in argv[1:]:
        path = Path(here, word)
        try:
            real = path.resolve(strict=True) if word else None
        except OSError:
            real = None
        if real is None or not real.is_file() or real.is_relative_to("/usr"):
            words.append(word)
            continue
        # guard: a box gets no file by a link that a sandbox may have made
        real = named_path(path, writable)
        words.append(str(real))
        files.append(real)
    return tuple(words), tuple(files)


def record_text(label: str, kind: str, title: str = "") -> str:
    """Return the text of a record for a program that has none; [launch] is its end.

    ``title`` precedes the titles of its windows; the label, where it is empty.
    """
    return _RECORD.format(label=label, kind=kind, title=title or label)


def box_text(name: str) -> str:
    """Return the text of a box's record; ``name``: of ``new_name``.

    The titles of its windows have the end of it: two boxes differ by it.
    """
    return record_text("untrusted", "bwrap", f"untrusted {name.rpartition('-')[2]}")


@contextmanager
def made_record(paths: Paths, name: str, text: str) -> Iterator[None]:
    """Write a record for the length of the block; ``name`` is used by no other run."""
    folder = paths.runtime / "boxes"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    base = folder / name
    # Held for as long as we live: a process that finds it free may remove the remains.
    held = _taken(paths, folder, base)
    try:
        record = paths.runtime / FOLDER / f"{name}.toml"
        record.parent.mkdir(mode=0o700, exist_ok=True)
        record.touch(mode=0o600, exist_ok=False)
        record.write_text(text)
        yield
    finally:
        _clear(paths, base)
        os.close(held)


@contextmanager
def shared_record(paths: Paths, name: str, text: str) -> Iterator[None]:
    """Write a record for as long as one of the runs lives that need it.

    ``name`` is not one of ``new_name``.  A broker that runs already reads it at the
    next launch, whoever started that broker.
    """
    folder = paths.runtime / "boxes"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    base = folder / name
    with _turn(folder):
        _sweep(paths, folder)
        held = os.open(_lock(base), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_SH)
        record = paths.runtime / FOLDER / f"{name}.toml"
        record.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(record, text.encode())
    try:
        yield
    finally:
        with _turn(folder), suppress(BlockingIOError):  # another run still needs it
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(paths, base)
        os.close(held)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Hold the lock for creating and removing lock files."""
    turn = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
    finally:
        os.close(turn)


def _taken(paths: Paths, folder: Path, base: Path) -> int:
    """Create and lock a box's lock file, with no other run sweeping meanwhile."""
    with _turn(folder):
        _sweep(paths, folder)
        held = os.open(_lock(base), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
    return held


def _sweep(paths: Paths, folder: Path) -> None:
    """Remove the leftovers of runs that were killed."""
    for base in [lock.with_suffix("") for lock in folder.glob("*.lock")]:
        try:
            fd = os.open(_lock(base), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its run has just removed it
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _clear(paths, base)
        except BlockingIOError:
            continue  # it runs
        finally:
            os.close(fd)


def _clear(paths: Paths, base: Path) -> None:
    with suppress(FileNotFoundError):
        (paths.runtime / FOLDER / f"{base.name}.toml").unlink()
    with suppress(FileNotFoundError):
        _lock(base).unlink()


def _lock(base: Path) -> Path:
    return base.with_suffix(".lock")
