"""The user's mixer settings for each sandbox, kept on disk.

One small file for each record's name, so that disposables of one record are as
loud as the last one was.  A file that cannot be read is as if it were not
there, but for muting: in doubt a sandbox is quiet.

The viewer reads and writes them, and so does ``brokerctl audio`` if no broker runs.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.limits import sound as limits
from broker.core.paths import find_paths
from broker.core.streams.sound_rules import Level

_BYTES = 4096
"""More than a level ever has."""


def levels_folder() -> Path:
    """Where this user's levels are kept.  Raises SetupError."""
    return find_paths().state / "audio"


class _Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    volume: int = limits.PULSE_VOLUME
    muted: bool = False


def _read(path: Path) -> bytes:
    """Return the start of a file, one byte more than a level has.  Raises OSError.

    A viewer that was taken over may have left a file of terabytes, a link or a pipe.
    """
    # guard: the next viewer waits for no pipe in the place of a level, and follows no link
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags)
    try:
        # guard: a level of terabytes fills no memory
        return os.read(fd, _BYTES + 1)
    finally:
        os.close(fd)


def load_level(directory: Path, name: str) -> Level:
    """Read a record's mixer level; full volume where none was set."""
    try:
        data = _read(directory / f"{name}.json")
    except FileNotFoundError:
        return Level()
    except OSError:
        return Level(muted=True)
    if len(data) > _BYTES:
        return Level(muted=True)
    try:
        kept = msgspec.json.decode(data, type=_Kept)
    # guard: a level that cannot be decoded silences no later stream
    except UNREADABLE:
        return Level(muted=True)
    return Level(max(0, min(kept.volume, limits.PULSE_VOLUME)), kept.muted)


def save_level(directory: Path, name: str, level: Level) -> None:
    """Write a record's mixer level atomically.  Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    data = msgspec.json.encode(_Kept(level.volume, level.muted))
    number, made = tempfile.mkstemp(dir=directory, prefix=f".{name}-")
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
        Path(made).replace(directory / f"{name}.json")
    except BaseException:
        with suppress(OSError):
            Path(made).unlink()
        raise
