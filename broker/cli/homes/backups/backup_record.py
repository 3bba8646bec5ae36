"""Which keys of a backup's record give a sandbox more than a fresh record does.

A backup is encrypted and not signed: anyone who knows the public key can replace it,
and its record is in force as soon as it is written.  A fresh record is that of an empty
file, or of the example of the sandbox's name: ``brokerctl new personal`` writes that one
without a question, so a backup of it brings nothing that its name does not give.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from broker.cli.policy.records import EXAMPLES
from broker.core.errors import InternalError
from broker.core.limits import clipboard as clipboard_limits
from policy.records.model import Record
from policy.tools.record_files import parse_record

_FRESH = b'class = "persistent"\n'

_OWN_KEYS = frozenset(
    {
        *("name", "class", "timezone", "label.colour", "clipboard.clean"),
        *("window.border", "window.name_strip", "window.top", "window.deny"),
        *("launch.packages", "launch.memory", "launch.cpus", "launch.command"),
        *("launch.folders", "launch.huge_pages", "launch.boot_deadline"),
        *("launch.pids", "audio.revoked", "audio.volume", "audio.idle"),
        *("state.disk_size", "state.encrypted", "state.keep", "transfer.keep_free"),
    }
)
_LIMITS = ("limits.", "transfer.", "window.", "audio.")
"""Tables whose numbers are limits: own where they are no larger than a fresh record's."""
_MOST: Mapping[str, float] = MappingProxyType(
    {
        # Without them a rule's limit holds, and these if it has none.
        "clipboard.max_size": clipboard_limits.CLIPBOARD_BYTES,
        "clipboard.ttl": clipboard_limits.CLIPBOARD_SECONDS,
    }
)
_OWN_VALUES: Mapping[str, frozenset[object]] = MappingProxyType(
    {
        "display": frozenset({"none", "allow"}),
        # A window without a frame is any other program's, or a prompt.
        "window.fullscreen": frozenset({"fake", "framed"}),
        "launch.fork": frozenset({"copy", "no"}),
    }
)
_TYPES = frozenset({"text/plain", "image/png"})
"""What may cross where neither rule nor record says it."""
_NAMES = ("label.name", "window.title_prefix")
"""What a user knows its windows by: the sandbox's own name, and no other one's."""


def reaching_keys(record: Record) -> list[str]:
    """Return the keys that the record sets to more than a fresh record has.

    A key is among them unless it is known not to be: tags and a record for disposables
    are what rules grant to others, bound paths and machines of others are not the
    sandbox's, a network or another launcher is more than a fresh one has, and a later
    version may have more.
    """
    fresh = [_parsed(record, _FRESH)]
    example = EXAMPLES / f"{record.name}.toml"
    if example.is_file():
        fresh.append(_parsed(record, example.read_bytes()))
    # guard: a backup's record reaches nothing of this machine
    return sorted(
        key
        for key in record.places
        if not any(_is_own(record, one, key) for one in fresh)
    )


def _parsed(record: Record, text: bytes) -> Record:
    fresh, problems = parse_record(record.name, Path("fresh"), text)
    if fresh is None or problems:
        raise InternalError(f"a new record has errors: {problems}")
    return fresh


def _is_own(record: Record, fresh: Record, key: str) -> bool:
    """Return whether a key's value is that of a fresh record, or harmless."""
    value = record.values[key]
    if key in _NAMES:
        return value in (record.name, fresh.values.get(key))
    if key == "launch.image" and record.values.get("launch.packages"):
        # Of the record's packages it is built again, for each record that uses it.
        keys = (key, "launch.packages")
        same = [record.values[one] for one in keys] == [
            fresh.values.get(one) for one in keys
        ]
        return same or value == record.name
    # guard: a backup's record is compared with a fresh one
    if key in _OWN_KEYS or (key in fresh.values and value == fresh.values[key]):
        return True
    if key == "launch.image":
        return True  # it only starts from that image
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _is_narrow(key, value)
    known = _MOST.get(key, fresh.values.get(key) if key.startswith(_LIMITS) else None)
    return isinstance(known, int | float) and value <= known


def _is_narrow(key: str, value: object) -> bool:
    if key == "clipboard.types" and isinstance(value, Collection):
        return _TYPES.issuperset(value)
    if isinstance(value, str):
        return value in _OWN_VALUES.get(key, frozenset())
    return not value
