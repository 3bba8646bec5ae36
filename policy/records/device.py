"""Match a USB device against the device conditions of a rule.

The operators and value forms are those of usbguard-rules.conf(5).  One thing
differs from its program on purpose: ``equals`` pairs each value with one
interface.  The program compares the counts and then looks for each value
anywhere, so ``equals {08:*:* 08:06:*}`` would accept a stick that is a keyboard
too.

A second guard is beside the operators: a keyboard or hub interface must be
named by the rule's ``with-interface``.  A rule about an id or a serial number
says nothing about what the device does, and both are the device's own claim.

The authority and brokerctl match rules by this, ``vitrail-devices`` its own lines of
policy; the viewer only parses a device's interfaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, unquote

from typing_extensions import override

CONDITION_VALUES = 32
"""Alternatives of one condition (``scheme=http,https`` has two)."""

DEVICE_TEXT_CHARS = 256
"""A serial number, a hash.  A USB string descriptor has at most 126 characters."""

DEVICE_INTERFACES = 256
"""Interfaces of one device, all alternate settings counted.  The kernel takes 32
interfaces a configuration (USB_MAXINTERFACES); cameras have a dozen settings each."""

DEVICE_LINE_BYTES = 65536
"""One line of ``brokerctl device match --batch``."""

DEVICE_ID = re.compile(r"([0-9a-f]{4}):([0-9a-f]{4})", re.IGNORECASE)
_ID_PATTERN = re.compile(
    r"([0-9a-f]{4}):([0-9a-f]{4}|\*)|(\*):(\*)", re.IGNORECASE | re.ASCII
)
_INTERFACE = re.compile(r"([0-9a-f]{2}):([0-9a-f]{2}):([0-9a-f]{2})", re.IGNORECASE)
_INTERFACE_PATTERN = re.compile(
    r"([0-9a-f]{2}):([0-9a-f]{2}|\*(?=:\*)):([0-9a-f]{2}|\*)", re.IGNORECASE
)
PORT_NAME = re.compile(r"usb[0-9]{1,4}|[0-9]{1,4}-[0-9]{1,3}(?:\.[0-9]{1,3}){0,6}")

HID, HUB = 0x03, 0x09
_KEYBOARD_PROTOCOL = 0x01
"""bInterfaceProtocol 1 of class HID (HID 1.11, 4.3)."""

EQUALS = "equals"
NONE_OF = "none-of"


class DeviceError(ValueError):
    """A device or a rule about devices is malformed; ``place`` says where."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}" if place else message)
        self.place = place
        self.message = message


class Interface(NamedTuple):
    """Class, subclass and protocol of one interface, 0 to 255 each."""

    cls: int
    sub: int
    proto: int

    @override
    def __str__(self) -> str:
        return f"{self.cls:02x}:{self.sub:02x}:{self.proto:02x}"

    @property
    def types(self) -> bool:
        """Return whether the interface declares itself a keyboard."""
        return self.cls == HID and self.proto == _KEYBOARD_PROTOCOL

    @property
    def hub(self) -> bool:
        """Return whether more devices may be attached to it."""
        return self.cls == HUB


@dataclass(frozen=True)
class DeviceFacts:
    """Attributes of a device that a rule may match.

    ``interfaces`` are in descriptor order.  Texts are cleaned by the caller; an
    empty one is an attribute that the device does not have.
    """

    id: str = ""
    serial: str = ""
    port: str = ""
    hash: str = ""
    interfaces: tuple[Interface, ...] = ()


class DevicePattern(NamedTuple):
    """One value of a condition; None is ``*``."""

    parts: tuple[int | str | None, ...]
    text: str

    @property
    def wildcards(self) -> int:
        """How many parts match anything."""
        return self.parts.count(None)

    def fits(self, value: Sequence[int | str]) -> bool:
        """Return whether this pattern matches one value of a device."""
        return len(value) == len(self.parts) and all(
            part is None or part == mine
            for part, mine in zip(self.parts, value, strict=True)
        )


Values = Sequence[Sequence[int | str]]
Patterns = tuple[DevicePattern, ...]


def _all_of(patterns: Patterns, values: Values) -> bool:
    return all(any(p.fits(v) for v in values) for p in patterns)


def _one_of(patterns: Patterns, values: Values) -> bool:
    return any(p.fits(v) for p in patterns for v in values)


def _none_of(patterns: Patterns, values: Values) -> bool:
    return not _one_of(patterns, values)


def _equals(patterns: Patterns, values: Values) -> bool:
    """Return whether patterns and values pair one to one.

    Patterns are nested (cc:ss:pp within cc:ss:* within cc:*:*), so a pattern
    may take any value that it fits once all more specific ones have chosen.
    """
    left = list(values)
    if len(left) != len(patterns):
        return False
    for pattern in sorted(patterns, key=lambda p: p.wildcards):
        found = next((value for value in left if pattern.fits(value)), None)
        if found is None:
            return False
        # guard: each value fits one pattern
        left.remove(found)
    return True


def _equals_ordered(patterns: Patterns, values: Values) -> bool:
    return len(values) == len(patterns) and all(
        pattern.fits(value) for pattern, value in zip(patterns, values, strict=True)
    )


def _match_all(patterns: Patterns, values: Values) -> bool:
    return all(any(p.fits(v) for p in patterns) for v in values)


OPERATORS: Mapping[str, Callable[[Patterns, Values], bool]] = MappingProxyType(
    {
        "all-of": _all_of,
        "one-of": _one_of,
        NONE_OF: _none_of,
        EQUALS: _equals,
        "equals-ordered": _equals_ordered,
        "match-all": _match_all,
    }
)
"""The set operators, by name."""


@dataclass(frozen=True)
class Condition:
    """One attribute's operator and values."""

    op: str
    patterns: Patterns

    def holds(self, values: Values) -> bool:
        """Return whether the values of a device meet it."""
        return OPERATORS[self.op](self.patterns, values)

    def names(self, interface: Interface) -> bool:
        """Return whether a value asks for this interface; ``none-of`` asks for none."""
        return self.op != NONE_OF and any(p.fits(interface) for p in self.patterns)

    @override
    def __str__(self) -> str:
        """Return the form of a rule file: ``VALUE`` or ``OPERATOR{VALUE,…}``."""
        # A serial number may have blanks, commas and braces.
        values = ",".join(quote(p.text, safe="*:/+=-._~") for p in self.patterns)
        if self.op == EQUALS and len(self.patterns) == 1:
            return values
        return f"{self.op}{{{values}}}"


# -- values ----------------------------------------------------------------------------


def _hex(text: str) -> int | None:
    return None if text == "*" else int(text, 16)


def _id_pattern(text: str) -> DevicePattern | None:
    found = _ID_PATTERN.fullmatch(text)
    if found is None:
        return None
    return DevicePattern(tuple(_hex(g) for g in found.groups() if g is not None), text)


def _interface_pattern(text: str) -> DevicePattern | None:
    found = _INTERFACE_PATTERN.fullmatch(text)
    return DevicePattern(tuple(map(_hex, found.groups())), text) if found else None


def _port_pattern(text: str) -> DevicePattern | None:
    return DevicePattern((text,), text) if PORT_NAME.fullmatch(text) else None


def _text_pattern(text: str) -> DevicePattern | None:
    return DevicePattern((text,), text) if len(text) <= DEVICE_TEXT_CHARS else None


def _hash_pattern(text: str) -> DevicePattern | None:
    return _text_pattern(text) if text else None


class _Attribute(NamedTuple):
    take: Callable[[str], DevicePattern | None]
    expected: str


ATTRIBUTES: Mapping[str, _Attribute] = MappingProxyType(
    {
        "id": _Attribute(_id_pattern, "VVVV:PPPP in hexadecimal, VVVV:* or *:*"),
        "serial": _Attribute(
            _text_pattern,
            f"text of at most {DEVICE_TEXT_CHARS} characters",
        ),
        "port": _Attribute(_port_pattern, "a port such as 1-2, 1-2.1 or usb1"),
        "hash": _Attribute(
            _hash_pattern,
            f"a hash of 1 to {DEVICE_TEXT_CHARS} characters",
        ),
        "with-interface": _Attribute(
            _interface_pattern,
            "CC:SS:PP in hexadecimal, CC:SS:* or CC:*:*",
        ),
    }
)
"""The attributes that a rule may ask about, in the order they are looked at."""


def condition(name: str, op: str, values: Iterable[str], place: str = "") -> Condition:
    """Parse a device condition.  Raises DeviceError for a malformed one."""
    if op not in OPERATORS:
        known = ", ".join(OPERATORS)
        raise DeviceError(_at(place, ".op"), f"not an operator; expected: {known}")
    take, expected = ATTRIBUTES[name]
    patterns: list[DevicePattern] = []
    for number, text in enumerate(values):
        pattern = take(text)
        if pattern is None:
            at = _at(place, f".values[{number}]")
            raise DeviceError(at, f"invalid value of '{name}'; expected: {expected}")
        patterns.append(pattern)
    most = CONDITION_VALUES
    if not 1 <= len(patterns) <= most:
        raise DeviceError(_at(place, ".values"), f"expected 1 to {most} values")
    return Condition(op, tuple(patterns))


def _at(place: str, more: str) -> str:
    return f"{place}{more}" if place else ""


def take_interface(text: str) -> Interface | None:
    """Return the interface ``CC:SS:PP``, None when it is not one."""
    found = _INTERFACE.fullmatch(text)
    return Interface(*(int(part, 16) for part in found.groups())) if found else None


# -- the form of rule files ------------------------------------------------------------

CLASSES: Mapping[str, int] = MappingProxyType(
    {
        "audio": 0x01,
        "communication": 0x02,
        "hid": HID,
        "image": 0x06,
        "printer": 0x07,
        "storage": 0x08,
        "hub": HUB,
        "smartcard": 0x0B,
        "video": 0x0E,
        "wireless": 0xE0,
        "vendor": 0xFF,
    }
)
"""Names of interface classes (https://www.usb.org/defined-class-codes)."""

_SET = re.compile(r"([a-z-]+)\{([^{}]*)\}")


def take_condition(name: str, text: str) -> Condition | None:
    """Return the condition of a rule file's ``name=text``, None when malformed."""
    found = _SET.fullmatch(text)
    op, values = (found[1], found[2].split(",")) if found else (EQUALS, [text])
    if found is None and "," in text:
        # Elsewhere in rules a list is "any of"; here it would be "equals".
        return None
    try:
        return condition(name, op, [unquote(value) for value in values])
    except DeviceError:
        return None


def take_classes(text: str) -> Condition | None:
    """Parse ``class=``: every interface is of one of these; None if malformed."""
    patterns: list[DevicePattern] = []
    for value in text.lower().split(","):
        code = CLASSES.get(value)
        if code is None and re.fullmatch("[0-9a-f]{2}", value):
            code = int(value, 16)
        if code is None:
            return None
        patterns.append(DevicePattern((code, None, None), value))
    if len(patterns) > CONDITION_VALUES:
        return None
    return Condition("match-all", tuple(patterns))


def class_text(wanted: Condition) -> str:
    """Return a ``class=`` condition as it is written."""
    return ",".join(pattern.text for pattern in wanted.patterns)


# -- rules -----------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceRule:
    """Conditions about a device; all must hold, an empty one holds always."""

    conditions: tuple[tuple[str, Condition], ...] = ()

    def fails(self, device: DeviceFacts) -> str:
        """Return the first condition that does not hold, or nothing.

        For what a rule denies; a grant needs ``refuses``.
        """
        for name, wanted in self.conditions:
            values = _values(device, name)
            # A device without interfaces is not proven to be storage and nothing else.
            # guard: no interface is not storage only
            if not wanted.holds(values) or (name == "class" and not values):
                return name
        return ""

    def unnamed(
        self, device: DeviceFacts, *, any_hid: bool = False
    ) -> Interface | None:
        """Return the first keyboard or hub interface that the rule does not name.

        ``any_hid``: every HID interface counts as a keyboard.  The protocol
        number is the device's own claim, and the kernel makes a keyboard of
        any HID interface whose report descriptor has keys.
        """
        wanted = dict(self.conditions).get("with-interface")
        for interface in device.interfaces:
            risky = interface.types or interface.hub
            risky = risky or (any_hid and interface.cls == HID)
            # guard: unnamed keyboards
            if risky and not (wanted is not None and wanted.names(interface)):
                return interface
        return None

    @override
    def __str__(self) -> str:
        """Return the conditions as a rule file has them."""
        return " ".join(
            f"{name}={class_text(wanted) if name == 'class' else wanted}"
            for name, wanted in self.conditions
        )

    def matches(self, device: DeviceFacts) -> bool:
        """Return whether a grant by this rule is about this device."""
        return not self.fails(device) and self.unnamed(device) is None


def _values(device: DeviceFacts, name: str) -> Values:
    """Return the values of a device that a condition of this name compares."""
    match name:
        case "with-interface" | "class":
            return device.interfaces
        case "id":
            found = DEVICE_ID.fullmatch(device.id)
            return (
                [tuple(int(part, 16) for part in found.groups())] if found else [("",)]
            )
        case _:
            return [(str(getattr(device, name)),)]


NO_DEVICE_RULE = DeviceRule()
