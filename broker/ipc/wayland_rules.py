"""The first order of a worker: the rules of its sandbox's windows."""

from __future__ import annotations

import os

from broker.core.streams.wayland_rules import WindowRules
from broker.ipc import worker


def order_of(rules: WindowRules) -> worker.Frames:
    """Return the order for these rules."""
    return worker.Frames(rules, traced())


def traced() -> bool:
    """Return whether VITRAIL_DEBUG asks for what passes on Wayland connections."""
    return "wayland" in os.environ.get("VITRAIL_DEBUG", "").split(",")
