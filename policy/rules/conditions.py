"""Conditions and limits of a rule, each typed.

Two classes, which must not be confused.  A *match condition* says what the
rule is about; if it does not hold, the next rule is asked.  A *limit* is
terminal: the rule has decided, and beyond the limit the answer is deny, never
the next rule (otherwise a sandbox could reach a laxer rule by asking often).

``mime`` is the sandbox's own claim; a claim may narrow an allow or an ask, but
no deny may depend on it.  ``scheme`` and ``host`` are taken by us from the
address itself.

The authority and brokerctl evaluate them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from policy import limits
from policy.destinations import LOOKUP, NETWORK, port_ranges, take_ports
from policy.names import ANY_KEY
from policy.records.device import (
    ATTRIBUTES,
    CLASSES,
    CONDITION_VALUES,
    NO_DEVICE_RULE,
    Condition,
    DeviceRule,
    take_classes,
    take_condition,
)

_MIME = re.compile(r"[a-z0-9][a-z0-9.+-]{0,62}/(?:\*|[a-z0-9][a-z0-9.+-]{0,62})|\*/\*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_HOST_NAME = r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_HOST_NAME}|\[{_HOST_NAME}\]:[1-9][0-9]{{0,4}}")
_SIZE = re.compile(r"([0-9]{1,18})([KMGT]?)")
_PRINTER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,126}")
_KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}|[A-Za-z0-9][A-Za-z0-9@._+-]{0,63}")
_TIME = re.compile(r"([0-9]{1,9})([smhd])")
_RATE = re.compile(r"([0-9]{1,9})/(?:([0-9]{1,8}))?(s|sec|m|min|h|d)")
_SECONDS = MappingProxyType(
    {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
)
_SIZES = " KMGT"
PROTOCOLS = ("tcp", "udp", "icmp")
"""What a flow to a host outside may be."""

MATCH = "match condition"
LIMIT = "limit"
MODE = "mode"


class RateCondition(NamedTuple):
    """At most ``calls`` within ``seconds``."""

    calls: int
    seconds: int


@dataclass(frozen=True)
class Match:
    """Match conditions; an empty one holds always."""

    mime: tuple[str, ...] = ()
    scheme: tuple[str, ...] = ()
    host: tuple[str, ...] = ()
    port: tuple[str, ...] = ()
    protocol: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    device: DeviceRule = NO_DEVICE_RULE


@dataclass(frozen=True)
class RuleLimits:
    """Limits: bytes, seconds, a rate; None is no limit.

    ``gesture``: the user must have acted in the source's window within so
    many seconds.  ``ttl``: how long a grant lasts.  ``remember``: for how long
    an answer may be kept.  ``returns`` (the key ``return``): whether a file that
    was opened for editing may be replaced by the edited one.  ``write``: whether a
    shared folder may be changed.  ``printer``: the queue that prints, of CUPS.
    """

    max_size: int | None = None
    rate: RateCondition | None = None
    ttl: int | None = None
    gesture: int | None = None
    remember: str | None = None
    returns: bool | None = None
    write: bool | None = None
    printer: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the limits that are set, by the key that sets them."""
        found: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None:
                shown = list(value) if isinstance(value, RateCondition) else value
                found[_KEY_OF_FIELD.get(item.name, item.name)] = shown
        return found


_FIELD_OF_KEY = MappingProxyType({"max-size": "max_size", "return": "returns"})
_KEY_OF_FIELD = MappingProxyType({name: key for key, name in _FIELD_OF_KEY.items()})


def limits_of(found: dict[str, Any]) -> RuleLimits:
    """Return the limits of these keys and values."""
    return RuleLimits(**{_FIELD_OF_KEY.get(k, k): v for k, v in found.items()})


NO_MATCH = Match()
NO_LIMITS = RuleLimits()


class ConditionKey(NamedTuple):
    """A key: its class, the actions that may have it, its form, its meaning."""

    kind: str
    actions: frozenset[str]
    expected: str
    take: Callable[[str], object]
    """Returns the value, or None when it is not one."""
    summary: str


def _several(pattern: re.Pattern[str]) -> Callable[[str], object]:
    """Return a parser of values with commas that all match a pattern.

    None for others.
    """

    def take(text: str) -> object:
        values = tuple(dict.fromkeys(text.lower().split(",")))
        good = all(pattern.fullmatch(value) for value in values)
        return values if good and len(values) <= CONDITION_VALUES else None

    return take


def _keys(text: str) -> object:
    values = tuple(dict.fromkeys(text.split(",")))
    good = all(_KEY.fullmatch(value) for value in values)
    return values if good and len(values) <= CONDITION_VALUES else None


def _ports(text: str) -> object:
    values = take_ports(text)
    return values if values and len(values) <= CONDITION_VALUES else None


def _size(text: str) -> object:
    """Parse a size to bytes; None for another text or beyond the limits."""
    found = _SIZE.fullmatch(text.upper())
    if found is None:
        return None
    size = int(found[1]) << 10 * _SIZES.index(found[2] or " ")
    low, high = limits.CONDITION_BYTES
    return size if low <= size <= high else None


def _within(seconds: int) -> bool:
    return limits.CONDITION_SECONDS[0] <= seconds <= limits.CONDITION_SECONDS[1]


def _time(text: str) -> object:
    found = _TIME.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    return seconds if _within(seconds) else None


def _rate(text: str) -> object:
    """Parse a rate as ``10/min``; None for another text or beyond the limits."""
    found = _RATE.fullmatch(text)
    if found is None:
        return None
    rate = RateCondition(int(found[1]), int(found[2] or 1) * _SECONDS[found[3]])
    low, high = limits.CONDITION_RATE
    return rate if low <= rate.calls <= high and _within(rate.seconds) else None


def _one_of(*words: str) -> Callable[[str], object]:
    return lambda text: text if text in words else None


def _printer(text: str) -> object:
    return text if _PRINTER.fullmatch(text) else None


def _yes_or_no(text: str) -> object:
    return {"yes": True, "no": False}.get(text)


_GRANTS = frozenset({"allow", "ask"})
_ALL = frozenset({"allow", "ask", "deny"})


def _of_device(name: str) -> ConditionKey:
    """Return the condition key of a device's attribute."""

    def take(text: str) -> object:
        return take_condition(name, text)

    expected = ATTRIBUTES[name].expected
    return ConditionKey(
        MATCH,
        _ALL,
        f"{expected}; or OPERATOR{{VALUE,…}}, such as one-of{{…}} or equals{{…}}",
        take,
        f"the device's {_MEANINGS[name]}",
    )


_MEANINGS = MappingProxyType(
    {
        "id": "vendor and product number, as claimed by the device",
        "serial": "serial number, as claimed by the device",
        "port": "port, as named by the kernel",
        "hash": "descriptors, by their hash in 'brokerctl device list'",
        "with-interface": "interfaces; a HID or hub interface must be named here",
    }
)

KEYS = MappingProxyType(
    {
        "mime": ConditionKey(
            MATCH,
            _GRANTS,
            "type/subtype or type/*; separate several with ','",
            _several(_MIME),
            "the type that the sandbox claims for its data; only grants may depend on it",
        ),
        "scheme": ConditionKey(
            MATCH,
            _ALL,
            "a scheme such as https; separate several with ','",
            _several(_SCHEME),
            "the scheme of the address",
        ),
        "host": ConditionKey(
            MATCH,
            _ALL,
            "a host, or *.example.org for all hosts below it, or [host]:port; separate several with ','",
            _several(_HOST),
            "the host of the address, or the host for which an ssh key is used; a host of ssh at another port than 22 is [host]:port",
        ),
        "key": ConditionKey(
            MATCH,
            _ALL,
            "a fingerprint such as SHA256:…, or a comment; separate several with ','",
            _keys,
            "the ssh key of vitrail.SshAgent, as shown by 'ssh-add -l'",
        ),
        **{name: _of_device(name) for name in ATTRIBUTES},
        "class": ConditionKey(
            MATCH,
            _ALL,
            f"{', '.join(CLASSES)} or CC in hexadecimal; separate several with ','",
            take_classes,
            "every interface of the device has one of these classes",
        ),
        "attach": ConditionKey(
            MODE,
            frozenset({"allow"}),
            "manual, auto or required",
            _one_of("manual", "auto", "required"),
            "when an allowed device is attached: on request (manual), or when it is "
            "plugged in (auto, required); with required, the sandbox does not start without it",
        ),
        "max-size": ConditionKey(
            LIMIT, _GRANTS, "a size such as 500K, 10M or 2G", _size, "the maximum size"
        ),
        "rate": ConditionKey(
            LIMIT, _GRANTS, "a rate such as 3/min, 10/5min", _rate, "the maximum rate"
        ),
        "ttl": ConditionKey(
            LIMIT,
            _GRANTS,
            "a time such as 30s, 10m, 2h or 1d",
            _time,
            "how long a grant lasts",
        ),
        "gesture": ConditionKey(
            LIMIT,
            _GRANTS,
            "a time such as 5s",
            _time,
            "the maximum time since the user's last input in the source's window",
        ),
        "remember": ConditionKey(
            LIMIT,
            frozenset({"ask"}),
            "no, stream or session",
            _one_of("no", "stream", "session"),
            "how long an answer may be remembered",
        ),
        "return": ConditionKey(
            LIMIT,
            _GRANTS,
            "yes or no",
            _yes_or_no,
            "whether changes to a file opened for editing may be copied back",
        ),
        "write": ConditionKey(
            LIMIT,
            _GRANTS,
            "yes or no",
            _yes_or_no,
            "whether a shared folder may be changed",
        ),
        "printer": ConditionKey(
            LIMIT,
            _GRANTS,
            "the name of a printer, as listed by 'lpstat -e'",
            _printer,
            "the printer of vitrail.Print; by default, the desktop's default printer",
        ),
        "mode": ConditionKey(
            MODE,
            _ALL,
            "enforce or observe",
            _one_of("enforce", "observe"),
            "with observe, the rule does not decide; the answer says where it would have decided",
        ),
    }
)
"""All keys that Qubes does not have."""

_FLOW_KEYS = MappingProxyType(
    {
        **KEYS,
        "port": ConditionKey(
            MATCH,
            _ALL,
            "a port, or a range such as 8000-8010; separate several with ','",
            _ports,
            "the destination port, for vitrail.Network",
        ),
        "protocol": ConditionKey(
            MATCH,
            _ALL,
            f"{', '.join(PROTOCOLS)}; separate several with ','",
            _several(re.compile("|".join(PROTOCOLS))),
            "the protocol of a flow, for vitrail.Network",
        ),
    }
)


def keys_of(service: str) -> Mapping[str, ConditionKey]:
    """Return the keys of a rule: the port of a flow is not that of a device."""
    return _FLOW_KEYS if service == NETWORK else KEYS


DEVICE_KEYS = (*ATTRIBUTES, "class")
"""The keys whose conditions together are ``Match.device``."""


def match_of(found: dict[str, object]) -> Match:
    """Build the match conditions of these keys and values."""
    device = [
        (key, value)
        for key in DEVICE_KEYS
        if isinstance(value := found.get(key), Condition)
    ]
    rest: dict[str, Any] = {
        k: v for k, v in found.items() if not isinstance(v, Condition)
    }
    made = DeviceRule(tuple(device)) if device else NO_DEVICE_RULE
    return Match(**rest, device=made)


def fits(
    match: Match,
    mime: str | None,
    scheme: str | None,
    host: str | None,
    key: str | None,
) -> str:
    """Return the name of the first condition that does not hold; '' if all hold.

    None is *not given*; an address without a host has the host ''.
    """
    if match.mime and not _fits_mime(match.mime, mime):
        return "mime"
    if match.scheme and (scheme is None or scheme.lower() not in match.scheme):
        return "scheme"
    if key == ANY_KEY:
        return ""
    if match.host and not _fits_host(match.host, host):
        return "host"
    if match.key and not _fits_key(match.key, key):
        return "key"
    return ""


def fits_flow(match: Match, protocol: str | None, port: int | None) -> str:
    """Return the first condition of a flow that does not hold, or nothing.

    None is *not given*, and no port or protocol is like it.
    """
    if match.protocol and protocol not in match.protocol:
        return "protocol"
    if match.port and (
        port is None or not any(port in one for one in port_ranges(match.port))
    ):
        return "port"
    return ""


def fails_flow(
    match: Match, *, deny: bool, protocol: str | None, port: int | None
) -> str:
    """Return the first condition about a flow by which a rule does not apply.

    A question for addresses (``LOOKUP``) is within every grant about the host, and
    within those denials that are about all flows to it.
    """
    if not (match.port or match.protocol):
        return ""
    if protocol == LOOKUP:
        return "protocol" if deny else ""
    if deny and protocol is None:
        return ""  # it may be the denied one
    if deny and port is None and protocol != "icmp":
        return fits_flow(match, protocol, None) if not match.port else ""
    return fits_flow(match, protocol, port)


def _fits_mime(patterns: tuple[str, ...], mime: str | None) -> bool:
    if mime is None:
        return False
    mime = mime.lower()
    head = mime.partition("/")[0] + "/*"
    return any(pattern in {mime, head, "*/*"} for pattern in patterns)


def _fits_key(patterns: tuple[str, ...], key: str | None) -> bool:
    """``key``: the fingerprint, a space and the comment; a certificate is marked."""
    if key is None:
        return False
    names = key.removesuffix(" (certificate)").split(" ", 1)
    return any(one in names for one in patterns)


def _fits_host(patterns: tuple[str, ...], host: str | None) -> bool:
    """Return whether a host's name fits one of the patterns.

    ``*.`` is any subdomain.
    """
    if not host:
        return False
    host = host.lower().removesuffix(".")
    return any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
        for pattern in patterns
    )
