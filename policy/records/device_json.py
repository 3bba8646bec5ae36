"""Rules and devices as JSON, for ``brokerctl device match``.

``{"rule": {…}, "device": {…}}`` on one line.  Both are read strictly: an unknown
or repeated key is an error, because a misspelt key would be a condition that is never
checked.

brokerctl reads and writes these; ``vitrail-devices`` reads rules of its own by the same
reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from policy.records.device import (
    ATTRIBUTES,
    DEVICE_ID,
    DEVICE_INTERFACES,
    DEVICE_LINE_BYTES,
    DEVICE_TEXT_CHARS,
    EQUALS,
    OPERATORS,
    PORT_NAME,
    Condition,
    DeviceError,
    DeviceFacts,
    DeviceRule,
    Interface,
    condition,
    take_interface,
)
from policy.suggestions import did_you_mean

_DEVICE = ("id", "serial", "port", "hash", "interfaces")


class _Repeated(dict[str, Any]):
    """An object that has a key twice; ``key`` is the second one."""

    key = ""


def match_line(untrusted_line: bytes) -> bool:
    """Return whether a line's rule matches its device.  Raises DeviceError."""
    asked = _object(_decoded(untrusted_line), "", ("rule", "device"))
    for key in ("rule", "device"):
        if key not in asked:
            raise DeviceError("", f"the line has no '{key}'")
    rule = rule_from(asked["rule"], "rule")
    return rule.matches(device_from(asked["device"], "device"))


def _decoded(untrusted_line: bytes) -> object:
    """Decode a line of JSON.  Raises DeviceError for a long or malformed one."""
    if len(untrusted_line) > DEVICE_LINE_BYTES:
        most = DEVICE_LINE_BYTES
        raise DeviceError("", f"the line has more than {most} bytes")
    try:
        text = untrusted_line.decode("utf-8")
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}"
        raise DeviceError(place, f"not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1}"
        raise DeviceError(place, "the line is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DeviceError("", "cannot parse JSON: a number is too long, or arrays are nested too deeply") from error  # fmt: skip


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, Any]:
    """Build a JSON object; mark the one in which a key is given twice."""
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    repeated, seen = _Repeated(made), set[str]()
    repeated.key = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
    return repeated


def _object(value: object, place: str, known: Iterable[str]) -> Mapping[str, Any]:
    """Check a JSON object and its keys; return it.  Raises DeviceError."""
    if not isinstance(value, dict):
        raise DeviceError(place, "not an object")
    # guard: a key twice in JSON
    if isinstance(value, _Repeated):
        raise DeviceError(_within(place, value.key), "duplicate key")
    known = tuple(known)
    for key in value:
        # guard: an unknown key in JSON
        if key not in known:
            hint = did_you_mean(key, known)
            expected = hint or f"expected: {', '.join(known)}"
            raise DeviceError(_within(place, key), f"unknown key; {expected}")
    return value


def _within(place: str, key: str) -> str:
    return f"{place}.{key[:40]}" if place else key[:40]


def rule_from(value: object, place: str = "rule") -> DeviceRule:
    """Return the rule of a JSON object.  Raises DeviceError."""
    asked = _object(value, place, ATTRIBUTES)
    return DeviceRule(
        tuple(
            (name, _condition(name, asked[name], place))
            for name in ATTRIBUTES
            if name in asked
        )
    )


def _condition(name: str, value: object, place: str) -> Condition:
    """Parse one device condition of a rule in JSON.  Raises DeviceError."""
    place = _within(place, name)
    if isinstance(value, str):
        try:
            return condition(name, EQUALS, [value])
        except DeviceError as error:
            raise DeviceError(place, error.message) from error
    if not isinstance(value, dict):
        raise DeviceError(place, "expected text or an object with 'op' and 'values'")
    asked = _object(value, place, ("op", "values"))
    for key in ("op", "values"):
        if key not in asked:
            raise DeviceError(place, f"the object has no '{key}'")
    op = asked["op"]
    if not isinstance(op, str):
        known = ", ".join(OPERATORS)
        raise DeviceError(f"{place}.op", f"not an operator; expected: {known}")
    return condition(name, op, _texts(asked["values"], f"{place}.values"), place)


def _texts(value: object, place: str) -> list[str]:
    """Check that a JSON value is a list of texts; return it.  Raises DeviceError."""
    if not isinstance(value, list):
        raise DeviceError(place, "not a list")
    for number, text in enumerate(value):
        if not isinstance(text, str):
            raise DeviceError(f"{place}[{number}]", "not text")
    return value


def device_from(value: object, place: str = "device") -> DeviceFacts:
    """Return the device of a JSON object.  Raises DeviceError.

    The device does not have a missing attribute.
    """
    asked = _object(value, place, _DEVICE)
    texts = {name: _text(asked, name, place) for name in _DEVICE[:-1]}
    if texts["id"] and not is_device_id(texts["id"]):
        raise DeviceError(f"{place}.id", "expected VVVV:PPPP in hexadecimal")
    if texts["port"] and not is_port(texts["port"]):
        raise DeviceError(f"{place}.port", "expected a port such as 1-2, 1-2.1 or usb1")
    return DeviceFacts(**texts, interfaces=_interfaces(asked, place))


def device_json(facts: DeviceFacts) -> dict[str, object]:
    """Return a device as JSON values, as ``device_from`` reads it."""
    texts = {name: getattr(facts, name) for name in _DEVICE[:-1]}
    interfaces = [str(interface) for interface in facts.interfaces]
    return {**{k: v for k, v in texts.items() if v}, "interfaces": interfaces}


def device_text(text: str) -> DeviceFacts:
    """Return the device of JSON text.  Raises DeviceError."""
    return device_from(_decoded(text.encode("utf-8", "surrogateescape")))


def _text(asked: Mapping[str, Any], name: str, place: str) -> str:
    """Return a text of a device in JSON, "" if unset.  Raises DeviceError."""
    text = asked.get(name, "")
    if not isinstance(text, str):
        raise DeviceError(f"{place}.{name}", "not text")
    if len(text) > DEVICE_TEXT_CHARS:
        most = DEVICE_TEXT_CHARS
        raise DeviceError(f"{place}.{name}", f"more than {most} characters")
    return text


def _interfaces(asked: Mapping[str, Any], place: str) -> tuple[Interface, ...]:
    """Parse the interfaces of a device in JSON.  Raises DeviceError."""
    place = f"{place}.interfaces"
    texts = _texts(asked.get("interfaces", []), place)
    if len(texts) > DEVICE_INTERFACES:
        raise DeviceError(place, f"more than {DEVICE_INTERFACES} interfaces")
    found: list[Interface] = []
    for number, text in enumerate(texts):
        interface = take_interface(text)
        if interface is None:
            raise DeviceError(f"{place}[{number}]", "expected CC:SS:PP in hexadecimal")
        found.append(interface)
    return tuple(found)


def answer_line(untrusted_line: bytes) -> dict[str, object]:
    """Return the answer to a line: a match, or an error, which never matches."""
    try:
        return {"match": match_line(untrusted_line)}
    except DeviceError as error:
        return {"match": False, "error": error.message, "place": error.place or "line"}


def is_device_id(text: str) -> bool:
    """Return whether a text is ``VVVV:PPPP`` without wildcards."""
    return DEVICE_ID.fullmatch(text) is not None


def is_port(text: str) -> bool:
    """Return whether a text names a USB port as the kernel does."""
    return PORT_NAME.fullmatch(text) is not None
