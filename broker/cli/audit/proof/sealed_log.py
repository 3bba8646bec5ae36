"""A log with a tree and signatures, as ``brokerctl audit verify`` reads it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.core.errors import SetupError
from broker.ipc.audit.database import open_reading

_SEALED_VERSION = 2


@contextmanager
def open_sealed(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a log for reading that has a tree and signatures, as all new ones do.

    Raises as ``open_reading``, and SetupError for a log of before.
    """
    with open_reading(path) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version < _SEALED_VERSION:
            raise SetupError(
                f"{path} was written by an older version of Vitrail and is not sealed",
                hint="to migrate the log, start a broker: 'brokerctl run SANDBOX'",
            )
        yield db
