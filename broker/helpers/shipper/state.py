"""How far shipping has come, for retention and for warnings."""

from __future__ import annotations

import time

from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths
from broker.helpers.shipper.config import find_config, load_config
from broker.helpers.shipper.cursor import Cursor, held_back, load_cursor
from broker.ipc.audit.database import log_identity, open_reading

_LATE_SECONDS = 600.0
"""A receiver that has had a problem for so long is a warning."""


def unshipped(paths: Paths) -> Cursor | None:
    """The receiver that is farthest behind; None when there is none.

    For retention: events after its ``sequence`` are still to be delivered.
    Raises SetupError when the configuration or a cursor cannot be read, as
    nothing should be removed then.
    """
    path = find_config(paths.config)
    if path is None:
        return None
    names = [target.name for target in load_config(path).target]
    return held_back(paths.shipping, names, _identity(paths))


def _identity(paths: Paths) -> str:
    """Which log it is, "" when there is none yet."""
    if not paths.audit.exists():
        return ""
    with open_reading(paths.audit) as db:
        return log_identity(db)


def warnings(paths: Paths) -> list[str]:
    """Warnings for ``brokerctl status``."""
    path = find_config(paths.config)
    if path is None:
        return []
    try:
        config = load_config(path)
        cursors = [load_cursor(paths.shipping, t.name) for t in config.target]
    except (SetupError, UpstreamError) as error:
        return [f"the audit log is not shipped: {error}"]
    now = time.time()
    return [
        f"the audit log is not shipped to '{c.name}': {c.problem}"
        for c in cursors
        if c.problem and now - c.since > _LATE_SECONDS
    ]
