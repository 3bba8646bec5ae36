"""The settings of a sandbox by one word each, and their keys in its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import tomlkit
from tomlkit.exceptions import ParseError
from tomlkit.items import Array
from tomlkit.toml_document import TOMLDocument

from broker.core.errors import RefusedError
from broker.core.escape import printable
from policy.destinations import NETWORK
from policy.records.launch_table import LAUNCH
from policy.records.model import Record
from policy.records.patterns import PALETTE
from policy.rules import record_gate as gate
from policy.rules.world import World
from policy.suggestions import did_you_mean

Value = str | int | bool | list[str]
_PLAYBACK, _MICROPHONE = "audio.playback", "audio.microphone"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its key in a record, and its words for the key's values.

    ``words`` maps what a user writes to the value; without any, the value is written as
    it is.  ``several``: an array, whose members are added by ``+NAME`` and removed by
    ``-NAME``.
    """

    key: str
    help: str
    words: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    several: bool = False


def _choice(key: str, text: str, *words: str) -> Setting:
    return Setting(key, text, MappingProxyType({word: word for word in words}))


def _switch(key: str, text: str, on: Value = True, off: Value = False) -> Setting:  # noqa: FBT002 - values of a record
    return Setting(key, text, MappingProxyType({"on": on, "off": off}))


SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        "windows": _switch("display", "windows on your desktop", "allow", "none"),
        "sound": _switch(_PLAYBACK, "sound of its programs", "allow", "none"),
        "microphone": _choice(
            _MICROPHONE, "the microphone, as rules say", "deny", "ask", "allow"
        ),
        "colour": Setting("label.colour", "frame colour: a name or #rrggbb"),
        "title": Setting("label.name", "the name in its windows' titles"),
        "name-strip": _switch("window.name_strip", "its name in the frame"),
        "fullscreen": _choice(
            "window.fullscreen", "what fullscreen shows", "fake", "framed", "real"
        ),
        "x11": _switch("window.x11", "X11 programs in a box or container"),
        "memory": Setting("launch.memory", "memory, such as 2G"),
        "network": _choice(
            "launch.network", "the network: none, all, or by rule", "none", "user", "rules"
        ),
        "command": Setting("launch.command", "the program that 'brokerctl run' starts", several=True),
        "packages": Setting("launch.packages", "Debian packages of its image", several=True),
        "tags": Setting("tags", "names by which rules refer to it", several=True),
        "drags": _switch("clipboard.drag", "drags to and from other sandboxes, as rules say", "rules", "none"),
        "time-zone": _choice("timezone", "the time zone of its programs", "utc", "desktop"),
        "autostart": _choice("autostart", "when your desktop starts it", "none", "login"),
        "logs": _choice("logs", "logs of a disposable sandbox at its end", "delete", "keep"),
        "class": _choice("class", "what is kept when it stops", "disposable", "persistent"),
    }
)  # fmt: skip
"""By the name that a user writes.  Another key is written whole: launch.open_files."""


_OF_SERVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        gate.DISPLAY: "windows on",
        gate.AUDIO: "sound on",
        gate.PLAYBACK: "sound on",
        gate.MICROPHONE: "microphone ask",
        NETWORK: "network rules",
    }
)
"""The setting by which a record lets its sandbox ask for a service at all."""


def change_for(service: str, source: str, world: World) -> str:
    """Return the command by which a record no longer refuses a service to a sandbox."""
    domain = world.domains.get(source)
    name = printable((domain.record if domain else None) or source, 60)
    words = _OF_SERVICE.get(service)
    return f"brokerctl set {name} {words}" if words else f"brokerctl policy edit {name}"


def setting_of(name: str) -> Setting:
    """Return the setting of a name, or of a whole key of a record.

    Raises RefusedError for a name that is neither.
    """
    if name in SETTINGS:
        return SETTINGS[name]
    if "." in name:
        return Setting(name, "")
    if name in LAUNCH.by_key:
        return Setting(f"launch.{name}", "")
    raise RefusedError(
        f"'{printable(name, 60)}' is not a setting",
        hint=did_you_mean(name, SETTINGS)
        or f"use one of {', '.join(SETTINGS)}, or a whole key such as launch.open_files",
    )


def words_of(setting: Setting) -> list[str]:
    """Return the words that a user may give, for completion; empty: any."""
    return list(PALETTE) if setting.key == "label.colour" else list(setting.words)


def shown(setting: Setting, record: Record) -> str:
    """Return a setting's present value in the user's words; empty: not set."""
    value = record.values.get(setting.key)
    for word, its in setting.words.items():
        if value == its:
            return word
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    if setting.key == "label.colour":
        return next((word for word, its in PALETTE.items() if its == value), str(value))
    if setting.key == "launch.memory" and isinstance(value, int):
        return f"{value // 1024}G" if value % 1024 == 0 else f"{value}M"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _parsed(
    name: str, setting: Setting, given: Sequence[str], now: Sequence[str]
) -> Value:
    """Return the value that the words mean.  Raises RefusedError."""
    if setting.several:
        return _several(given, now)
    if len(given) != 1:
        raise RefusedError(f"'{printable(name, 60)}' takes one value, not {len(given)}")
    if setting.words:
        if given[0] not in setting.words:
            raise RefusedError(
                f"'{printable(given[0], 60)}' is not a value of "
                f"'{printable(name, 60)}'",
                hint=did_you_mean(given[0], setting.words)
                or f"use one of {', '.join(setting.words)}",
            )
        return setting.words[given[0]]
    if setting.help:
        return given[0]
    # A key of the file's format: its value is written as in the file, or is a word.
    try:
        value: object = tomlkit.parse(f"value = {given[0]}").unwrap()["value"]
    except ParseError:
        return given[0]
    return value if isinstance(value, (str, int, bool, list)) else given[0]


def _several(given: Sequence[str], now: Sequence[str]) -> list[str]:
    changes = [word for word in given if word[:1] in {"+", "-"} and len(word) > 1]
    if len(changes) < len(given):
        return list(given)
    kept = [word for word in now if f"-{word}" not in changes]
    new = [word[1:] for word in changes if word[0] == "+" and word[1:] not in kept]
    return [*kept, *new]


def changed(text: str, record: Record, name: str, given: Sequence[str]) -> str:
    """Return a record's text with a setting at a new value, all else as it stands.

    A microphone needs sound: one that goes ends the other, and one that comes brings it.
    Raises RefusedError for an invalid value, and for a text that is not TOML.
    """
    setting = setting_of(name)
    present = record.values.get(setting.key)
    now = present if isinstance(present, (list, tuple)) else ()
    value = _parsed(name, setting, given, [str(word) for word in now])
    text = with_value(text, setting.key, value)
    microphone = record.values[_MICROPHONE]
    if (setting.key, value) == (_PLAYBACK, "none") and microphone != "deny":
        return with_value(text, _MICROPHONE, "deny")
    muted = record.values[_PLAYBACK] == "none"
    if setting.key == _MICROPHONE and value != "deny" and muted:
        return with_value(text, _PLAYBACK, "allow")
    return text


def with_value(text: str, path: str, value: Value) -> str:
    """Return a record's text with a key (``launch.memory``) at a value, all else as it stands.

    Raises RefusedError for a text that is no TOML.
    """
    try:
        document = tomlkit.parse(text)
    except ParseError as error:
        raise RefusedError(
            f"the record is not valid TOML: {error}",
            hint="to correct it, run 'brokerctl policy edit NAME.toml'",
        ) from error
    *tables, key = path.split(".")
    place = _table(document, tables)
    item = place.get(key)
    if item == value:
        return text
    if isinstance(item, Array) and isinstance(value, list):
        _follow(item, value)
    else:
        place[key] = tomlkit.item(value)
    return tomlkit.dumps(document)


def _follow(array: Array, value: Sequence[str]) -> None:
    """Change an array's members where they stand; comments beside the others stay."""
    for word in [word for word in array if word not in value]:
        array.remove(word)
    for word in value:
        if word not in array:
            array.append(word)
    if list(array) != list(value):  # another order
        array.clear()
        array.extend(value)


def _table(document: TOMLDocument, names: Sequence[str]) -> dict[str, object]:
    place: dict[str, object] = document
    for name in names:
        inner = place.get(name)
        if inner is None:
            place[name] = tomlkit.table()
        elif isinstance(inner, str):
            # 'audio = "allow"' is short for a table (policy/records/desktop_tables.py).
            table = tomlkit.table()
            table.add("playback", inner)
            del place[name]
            place[name] = table
        place = place[name]  # type: ignore[assignment]
    return place
