"""How far shipping has come, for retention and ``brokerctl status``.

The authority, the shipper's service and brokerctl read it; nothing is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths, read_config
from broker.helpers.shipper.cursor import Cursor, held_back, load_cursor
from broker.ipc.audit.database import log_identity, open_reading

_LATE_SECONDS = 600.0
"""A receiver that has had a problem for so long is a warning."""
_PROBLEM_BYTES = 4096


class _Named(msgspec.Struct):
    name: str


class _Receivers(msgspec.Struct):
    target: list[_Named] = []


def find_config(directories: Sequence[Path]) -> Path | None:
    """The file that holds, if there is one."""
    return next(
        (d / "ship.toml" for d in directories if (d / "ship.toml").exists()), None
    )


def receiver_names(path: Path) -> list[str]:
    """Return the receivers' names in ``ship.toml``.

    Raises SetupError if it cannot be read.
    """
    try:
        found = msgspec.toml.decode(read_config(path), type=_Receivers)
    except (OSError, *UNREADABLE) as error:
        raise SetupError(str(error), where=str(path)) from error
    return [target.name for target in found.target]


def unshipped(paths: Paths) -> Cursor | None:
    """Return the receiver that is farthest behind; None when there is none.

    For retention: events after its ``sequence`` are still to be delivered.
    Raises SetupError when the configuration or a cursor cannot be read, as
    nothing should be removed then.
    """
    path = find_config(paths.config)
    if path is None:
        return None
    return held_back(paths.shipping, receiver_names(path), _identity(paths))


def problem_file(paths: Paths) -> Path:
    """Return the file that says why ``ship.toml`` cannot be used."""
    return paths.shipping / "config.problem"


def shipping_warnings(paths: Paths) -> list[str]:
    """Return warnings about shipping for ``brokerctl status``: failures, delays."""
    path = find_config(paths.config)
    if path is None:
        return []
    try:
        # guard: a problem of shipping is a small regular file
        data = read_config(problem_file(paths), os.O_NOFOLLOW)[:_PROBLEM_BYTES]
        return [f"the audit log is not shipped: {data.decode('utf-8', 'replace')}"]
    except FileNotFoundError:
        pass
    except SetupError as error:
        return [f"the audit log is not shipped: {error}"]
    try:
        cursors = [load_cursor(paths.shipping, name) for name in receiver_names(path)]
    except (SetupError, UpstreamError) as error:
        return [f"the audit log is not shipped: {error}"]
    now = time.time()
    return [
        f"the audit log is not shipped to '{c.name}': {c.problem}"
        for c in cursors
        if c.problem and now - c.since > _LATE_SECONDS
    ]


def _identity(paths: Paths) -> str:
    """Which log it is, "" when there is none yet."""
    if not paths.audit.exists():
        return ""
    with open_reading(paths.audit) as db:
        return log_identity(db)
