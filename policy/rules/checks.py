"""The checks of ``brokerctl policy lint``, by name.

The authority has of it the names of services only; brokerctl makes the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CHECKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "contradictory": (
            "error",
            "earlier rules decide all calls that it matches, with another action",
        ),
        "shadowed": ("warning", "earlier rules decide all calls that it matches"),
        "redundant": ("note", "an earlier rule already decides the same"),
        "never-matches": ("warning", "no call can match the rule"),
        "unknown-sandbox": ("warning", "no sandbox has this name"),
        "unknown-tag": ("warning", "no sandbox has this tag"),
        "unknown-type": ("warning", "no sandbox has this type"),
        "unknown-service": ("warning", "Vitrail has no service of this name"),
        "unknown-port": ("warning", "no TCP port has this number"),
        "ask-nothing": ("warning", "the rule asks, but has no target to offer"),
        "default-not-offered": ("warning", "the default_target is never offered"),
        "reaches-viewer": ("warning", "the rule's target * includes the viewer"),
        "too-wide": ("warning", "the rule grants every service"),
        "claim": ("warning", "a sandbox can claim a type to reach a laxer rule"),
        "passes-on": ("warning", "a later rule allows another key or host"),
        "device-elsewhere": ("warning", "only calls of vitrail.Device have a device"),
        "device-unpinned": (
            "warning",
            "the rule trusts what a device claims, and does not restrict its interfaces",
        ),
        "redirect-denied": ("warning", "an earlier rule denies the redirect's target"),
        "look-alike": ("warning", "two names look alike"),
        "unread-file": ("warning", "a file beside the rules or records is not read"),
        "open-to-others": ("warning", "other users can change or replace the files"),
        "dangerous-global": ("warning", "a record allows a dangerous Wayland global"),
        "whole-gpu": ("warning", "the application has the whole GPU and its screens"),
        "drawn-provider": ("warning", "its GPU process can stop others' network"),
        "unframed": ("warning", "windows may be shown without their frame"),
        "translucent": ("warning", "windows may be translucent"),
        "unfiltered-sound": ("warning", "no filter protects the sound server"),
        "colours-close": ("warning", "two frames have similar colours"),
        "colour-faint": ("warning", "the frame of the sandbox is hard to see"),
        "mixed-scripts": ("warning", "a name mixes letters of several scripts"),
        "no-disposable": ("warning", "the default disposable cannot be created"),
        "no-provider": ("error", "the network of the sandbox has no provider"),
        "record-denies": ("note", "a rule grants what the record denies"),
        "network-unasked": ("warning", "the record lets no rule decide about flows"),
        "rules-deny": ("note", "a record permits what no rule grants"),
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
    "vitrail.Block",
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
