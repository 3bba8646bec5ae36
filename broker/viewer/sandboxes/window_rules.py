"""From a sandbox's record to the rules of its windows."""

from __future__ import annotations

from dataclasses import replace

from broker.core.names import SandboxName
from broker.core.streams.wayland_rules import Fullscreen, WindowRules, take_color
from broker.core.streams.wayland_verdicts import OPTIONS
from broker.viewer.sandboxes.strip_letters import StripLetters
from policy.records.model import Record


async def drawn_rules(
    record: Record, sandbox: SandboxName, letters: StripLetters
) -> WindowRules:
    """The rules, with the name for the strip in the desktop's font."""
    rules = rules_from(record, sandbox)
    if not rules.label:
        return rules
    return replace(rules, strip=await letters.name(rules.name, rules.top))


def rules_from(record: Record, sandbox: SandboxName) -> WindowRules:
    """The rules for the windows of a sandbox that was started from a record.

    Where the record has no words of its own for them, the sandbox's name
    stands before its titles: disposables of one record differ by it.
    """
    window = record.viewer.window
    prefix = "" if window.title_prefix == record.name else window.title_prefix
    if not record.host.launch.kind.boundary:
        # A frame promises a boundary; where there is none, the frame itself says so.
        # guard: a shared box's frame says that it is a label
        prefix = f"{prefix or sandbox}: label, not boundary"
    return WindowRules(
        name=sandbox,
        color=take_color(record.viewer.label.colour),
        prefix=prefix,
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
