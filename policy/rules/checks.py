"""The checks of ``brokerctl policy lint``, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CHECKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "contradictory": (
            "error",
            "earlier rules decide otherwise all that it matches",
        ),
        "shadowed": ("warning", "earlier rules decide all that it matches"),
        "redundant": ("note", "an earlier rule says the same of all that it matches"),
        "never-matches": ("warning", "no call can match it"),
        "unknown-sandbox": ("warning", "no sandbox has this name"),
        "unknown-tag": ("warning", "no sandbox has this tag"),
        "unknown-type": ("warning", "no sandbox is of this type"),
        "unknown-service": ("warning", "none of our services has this name"),
        "ask-nothing": ("warning", "it asks, but has no target to offer"),
        "default-not-offered": ("warning", "its default_target is never offered"),
        "reaches-viewer": ("warning", "its target * includes the viewer"),
        "too-wide": ("warning", "it grants every service"),
        "claim": ("warning", "what the sandbox claims leads it to a laxer rule"),
        "passes-on": ("warning", "another key or host is allowed by a later rule"),
        "device-elsewhere": ("warning", "only calls of vitrail.Device have a device"),
        "device-unpinned": (
            "warning",
            "it grants a device by what that claims, whatever its interfaces are",
        ),
        "redirect-denied": ("warning", "it redirects to what an earlier rule denies"),
        "look-alike": ("warning", "two names look alike"),
        "unread-file": ("warning", "a file beside the rules or records is not read"),
        "open-to-others": ("warning", "others may change or replace the files"),
        "dangerous-global": ("warning", "a Wayland global that a record allows"),
        "whole-gpu": ("warning", "the application has all of the GPU, its screens too"),
        "drawn-provider": ("warning", "what draws for it can end others' network"),
        "unframed": ("warning", "its windows may be shown without their frame"),
        "translucent": ("warning", "content below its windows shines through"),
        "unfiltered-sound": ("warning", "no filter protects the sound server"),
        "colours-close": ("warning", "two frames have colours that look alike"),
        "colour-faint": ("warning", "its frame is hard to see"),
        "mixed-scripts": ("warning", "letters of several scripts in one name"),
        "no-disposable": ("warning", "its default disposable cannot be made"),
        "no-provider": ("error", "its network leads through none"),
        "record-denies": ("note", "a rule grants what the record denies"),
        "rules-deny": ("note", "a record opens what no rule grants"),
    }
)
"""Every check of lint: its weight and its finding."""

DEVICE = "vitrail.Device"
"""The service whose calls have a device."""

SERVICES = (
    "vitrail.Agent",
    "vitrail.Audio",
    "vitrail.AudioInput",
    "vitrail.AudioOutput",
    "vitrail.Call",
    "vitrail.Camera",
    "vitrail.ClipboardCopy",
    "vitrail.ClipboardPaste",
    "vitrail.Device",
    "vitrail.Display",
    "vitrail.FileCopy",
    "vitrail.FileDialog",
    "vitrail.Folder",
    "vitrail.Network",
    "vitrail.Notification",
    "vitrail.OpenFile",
    "vitrail.OpenURL",
    "vitrail.Print",
    "vitrail.ScreenShare",
    "vitrail.Secret",
    "vitrail.SecurityKey",
    "vitrail.Settings",
    "vitrail.SshAgent",
    "vitrail.Tcp",
    "vitrail.Tray",
)
"""The services that Vitrail itself asks rules about."""
