"""How far each receiver has got: a file for each, in the broker's state.

The file is replaced as a whole and flushed, so that a power cut leaves the old
one or the new one.  Retention reads them (``held_back``): what a configured
receiver has not got yet is not removed.

The shipper reads and moves them (``saved_cursor`` writes); the authority and brokerctl
read them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError
from broker.core.paths import read_config

SUFFIX = ".json"


# A cursor carries the hash of its event. journalctl's cursors name a place. Ours also
# identify the event, so a script that continues at yesterday's cursor finds a log that
# was rolled back in between, instead of silently beginning in the middle of another
# one.
class Cursor(msgspec.Struct, kw_only=True):
    """The stored state of one receiver."""

    name: str
    target: str = ""
    """Where it is, without secrets, for people."""
    log: str = ""
    """The id of the log that ``sequence`` counts in, hex."""
    sequence: int = 0
    """The last event that it has; 0: none."""
    leaf: str = ""
    """The hash of that event, hex: so that a changed log is noticed."""
    time_ns: int = 0
    """When that event happened."""
    noted: int = -1
    """The size of the last checkpoint that it has; -1: none."""
    noted_kinds: list[str] = []
    """Which checkpoints of that size it has."""
    shipped: float = 0.0
    """When it was delivered, seconds since 1970."""
    problem: str = ""
    """Why it gets nothing now; "" when all is well."""
    since: float = 0.0
    """Since when there is this problem."""
    missing: int = 0
    """Events that retention had removed before they could be delivered."""


def load_cursor(directory: Path, name: str) -> Cursor:
    """Read a receiver's cursor, or return a new one.

    Raises SetupError for a file that is not ours. A shipper that was taken over may
    have written it, or made something else there.
    """
    path = directory / f"{name}{SUFFIX}"
    try:
        # guard: a cursor is a small regular file
        data = read_config(path, os.O_NOFOLLOW)
        return msgspec.json.decode(data, type=Cursor)
    except FileNotFoundError:
        return Cursor(name=name)
    except UNREADABLE as error:
        # Beginning again would send a whole log again without a request.
        raise SetupError(
            f"{path} does not contain the progress of a receiver: {error}",
            hint="remove the file to send the whole log to this receiver again",
        ) from error


def held_back(directory: Path, names: Sequence[str], log: str = "") -> Cursor | None:
    """Return the cursor of the receiver that is farthest behind, of these names.

    Events after its ``sequence`` have not been delivered to it, so retention
    keeps them.  A cursor of another log than ``log`` (its id, if it is known)
    says nothing of this one.  Raises SetupError and UpstreamError as
    ``load_cursor`` does.
    """
    known = [load_cursor(directory, name) for name in names]
    for cursor in known:
        if log and cursor.log != log:
            cursor.sequence = 0
    return min(known, key=lambda cursor: cursor.sequence, default=None)
