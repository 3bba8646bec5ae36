"""From a sandbox's record to its windows' rules, and those to its worker.

The record is read by the supervisor only.  What a worker gets is the finished
rules, as plain values (``core.worker.Frames``), before it serves a display.
"""

from __future__ import annotations

import os

from broker.core.names import SandboxName
from broker.ipc import worker
from broker.wayland.rules import Fullscreen, WindowRules, take_color
from broker.wayland.verdicts import OPTIONS
from policy.records.model import Record


def rules_from(record: Record, sandbox: SandboxName) -> WindowRules:
    """The rules for the windows of a sandbox that was started from a record.

    Where the record has no words of its own for them, the sandbox's name
    stands before its titles: disposables of one record differ by it.
    """
    window = record.viewer.window
    return WindowRules(
        name=sandbox,
        color=take_color(record.viewer.label.colour),
        prefix="" if window.title_prefix == record.name else window.title_prefix,
        border=window.border,
        top=window.top,
        label=window.name_strip,
        translucent=window.translucent,
        fullscreen=Fullscreen(window.fullscreen),
        allow=window.allow & OPTIONS,
        deny=window.deny,
        promote=window.subsurfaces == "promote",
        ceilings={
            "clients": record.viewer.limits.wayland_clients,
            "windows": window.windows,
            "popups": window.popups,
            "surfaces": window.surfaces,
            "shm_bytes": window.buffer_memory,
        },
    )


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
        trace=traced(),
    )


def rules_of(order: worker.Frames) -> WindowRules:
    """In the worker: the rules again.

    Raises RefusedError or ValueError for what no supervisor of ours says.
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
    )


def traced() -> bool:
    """Whether VITRAIL_DEBUG asks for what passes on Wayland connections."""
    return "wayland" in os.environ.get("VITRAIL_DEBUG", "").split(",")
