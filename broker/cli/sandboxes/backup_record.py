"""Which keys of a backup's record give a sandbox more than its own home.

A backup is encrypted and not signed: anyone who knows the public key can replace it,
and its record is in force as soon as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from policy.records.model import Record

_OWN_TABLES = ("clipboard.", "limits.", "state.", "transfer.")
"""Tables of limits alone: of these and a rule's the strictest holds."""
_OWN_KEYS = frozenset(
    {
        *("name", "class", "display", "timezone", "label.colour"),
        *("window.border", "window.name_strip", "window.top", "window.deny"),
        *("window.windows", "window.popups", "window.surfaces"),
        *("window.buffer_memory", "audio.revoked", "audio.streams", "audio.rate"),
        *("audio.channels", "audio.buffer", "audio.volume", "audio.idle"),
        *("launch.packages", "launch.memory", "launch.cpus", "launch.network"),
        *("launch.command", "launch.folders", "launch.huge_pages"),
        *("launch.boot_deadline", "launch.pids"),
    }
)
_OWN_VALUES: Mapping[str, frozenset[object]] = MappingProxyType(
    {
        # Unfiltered, it records the person and all other applications.
        "audio.playback": frozenset({"none", "allow"}),
        "audio.microphone": frozenset({"deny", "ask"}),
        # A window without a frame is any other program's, or a prompt.
        "window.fullscreen": frozenset({"fake", "framed"}),
        "window.subsurfaces": frozenset({"crop"}),
        "launch.fork": frozenset({"copy", "no"}),
        # The others have no jail of ours, or are no sandboxes.
        "launch.kind": frozenset(
            {"microvm", "firecracker", "cloud-hypervisor", "crosvm", "bwrap"}
        ),
        "launch.root": frozenset({"image"}),
    }
)
_NAMES = ("label.name", "window.title_prefix")
"""What a person knows its windows by: the sandbox's own name, and no other one's."""


def reaching_keys(record: Record) -> list[str]:
    """Return the keys that the record sets to more than the sandbox itself.

    A key is among them unless it is known not to be: tags and a record for disposables
    are what rules grant to others, bound paths and machines of others are not the
    sandbox's, and a later version may have more.
    """
    # guard: a backup's record reaches nothing of this machine
    return sorted(key for key in record.places if not _is_own(record, key))


def _is_own(record: Record, key: str) -> bool:
    value = record.values[key]
    if key in _OWN_KEYS or key.startswith(_OWN_TABLES):
        return True
    if key in _NAMES:
        return value == record.name
    if key == "launch.image":
        # Of the record's packages it is built again, for each record that uses it.
        return not record.values.get("launch.packages") or value == record.name
    if isinstance(value, str):
        return value in _OWN_VALUES.get(key, frozenset())
    return not value
