"""Warnings about shipping, for ``brokerctl status``."""

from __future__ import annotations

import time

from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths
from broker.helpers.shipper.config import load_config
from broker.helpers.shipper.cursor import load_cursor
from broker.helpers.shipper.state import find_config

_LATE_SECONDS = 600.0
"""A receiver that has had a problem for so long is a warning."""


def shipping_warnings(paths: Paths) -> list[str]:
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
