"""The rules of a sandbox's windows as the message that its worker gets.

The supervisor alone reads the record.  A worker gets the finished rules, as
plain values (``ipc.worker.Frames``), before it serves a display.
"""

from __future__ import annotations

import os

from broker.core.streams.wayland_rules import Fullscreen, WindowRules
from broker.ipc import worker


def order_of(rules: WindowRules) -> worker.Frames:
    """The worker's first order."""
    return worker.Frames(
        name=rules.name,
        prefix=rules.prefix,
        color=rules.color,
        border=rules.border,
        top=rules.top,
        label=rules.label,
        translucent=rules.translucent,
        fullscreen=rules.fullscreen.value,
        allow=sorted(rules.allow),
        deny=sorted(rules.deny),
        ceilings=dict(rules.ceilings),
        promote=rules.promote,
        strip=rules.strip,
        trace=traced(),
    )


def rules_of(order: worker.Frames) -> WindowRules:
    """In the worker: the rules again.

    Raises RefusedError or ValueError for what not even a correct supervisor says.
    """
    return WindowRules(
        name=order.name,
        prefix=order.prefix,
        color=order.color,
        border=order.border,
        top=order.top,
        label=order.label,
        translucent=order.translucent,
        fullscreen=Fullscreen(order.fullscreen),
        allow=frozenset(order.allow),
        deny=frozenset(order.deny),
        ceilings=order.ceilings,
        promote=order.promote,
        strip=order.strip,
    )


def traced() -> bool:
    """Whether VITRAIL_DEBUG asks for what passes on Wayland connections."""
    return "wayland" in os.environ.get("VITRAIL_DEBUG", "").split(",")
