"""How far shipping has come, for retention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from broker.core.errors import SetupError
from broker.core.paths import Paths, read_config
from broker.helpers.shipper.cursor import Cursor, held_back
from broker.ipc.audit.database import log_identity, open_reading


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
    """Return the names in it.  Raises SetupError where it cannot be read."""
    try:
        found = msgspec.toml.decode(read_config(path), type=_Receivers)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SetupError(str(error), where=str(path)) from error
    return [target.name for target in found.target]


def unshipped(paths: Paths) -> Cursor | None:
    """The receiver that is farthest behind; None when there is none.

    For retention: events after its ``sequence`` are still to be delivered.
    Raises SetupError when the configuration or a cursor cannot be read, as
    nothing should be removed then.
    """
    path = find_config(paths.config)
    if path is None:
        return None
    return held_back(paths.shipping, receiver_names(path), _identity(paths))


def _identity(paths: Paths) -> str:
    """Which log it is, "" when there is none yet."""
    if not paths.audit.exists():
        return ""
    with open_reading(paths.audit) as db:
        return log_identity(db)
