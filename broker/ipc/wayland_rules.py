"""The first order of a worker: the rules of its sandbox's windows."""

from __future__ import annotations

import os
import sys

from broker.core.escape import printable
from broker.core.limits.wayland import WAYLAND_TRACE_CHARS
from broker.core.streams.wayland_rules import WindowRules
from broker.ipc import worker


def order_of(rules: WindowRules) -> worker.FrameRules:
    """Return the order for these rules."""
    return worker.FrameRules(rules, traced())


def traced() -> bool:
    """Return whether VITRAIL_DEBUG asks for what passes on Wayland connections."""
    return "wayland" in os.environ.get("VITRAIL_DEBUG", "").split(",")


def print_trace(message: worker.Traced, prefix: str = "") -> None:
    """Print the lines of VITRAIL_DEBUG=wayland to standard error, a broker's log."""
    if message.lost:
        sys.stderr.write(f"{prefix}{message.lost} lines were lost\n")
    for line in message.lines:
        shown = printable(line, WAYLAND_TRACE_CHARS)
        sys.stderr.write(f"{prefix}{shown}\n")
