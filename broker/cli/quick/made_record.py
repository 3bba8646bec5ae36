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
# Of a program that 'brokerctl run' has started; removed when the program ends.
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
    the user has named it.  Files below /usr are there already.  A word that begins with
    '-' is an option, also beside a file of that name.  ``writable`` are
    directories that sandboxes may write to: see ``planted_links``.
    """
    words, files = [argv[0]], []
    for word in argv[1:]:
        path = Path(here, word)
        try:
            # guard: an option of a command is no file that a sandbox has made
            named = word if not word.startswith("-") else ""
            real = path.resolve(strict=True) if named else None
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

    The titles of its windows have the name that 'list' shows and 'stop' takes.
    """
    return record_text("untrusted", "bwrap", name)


@contextmanager
def shared_record(paths: Paths, name: str, text: str) -> Iterator[None]:
    """Write a record for as long as one of the runs lives that need it.

    ``name`` is not one of ``new_name``.  A broker that runs already reads it at the
    next launch, whoever started that broker.
    """
    record = paths.runtime / FOLDER / f"{name}.toml"
    record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _turn(record.parent):
        if not record.exists():
            replace_file(record, text.encode())
        held = os.open(record, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_SH)
    try:
        yield
    finally:
        with _turn(record.parent), suppress(BlockingIOError):  # another run needs it
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            record.unlink(missing_ok=True)
        os.close(held)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Hold the lock for creating and removing records."""
    turn = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield
    finally:
        os.close(turn)
