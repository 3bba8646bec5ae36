"""Tokens in the columns of a rule (qrexec policy 5.0, four contexts).

The authority and brokerctl run this when they read rules.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from types import MappingProxyType

from policy import limits
from policy.destinations import NET
from policy.names import ADMIN, ADMIN_NAMES
from policy.rules.world import DEFAULT, DISPVM, DISPVM_OF
from policy.suggestions import did_you_mean


class Place(enum.Enum):
    """The place of a token.  Not every token is legal in every place."""

    SOURCE = "source"
    TARGET = "target"
    REDIRECT = "redirect"
    CALL = "caller's target"


_EXACT = MappingProxyType(
    {
        "*": {Place.SOURCE, Place.TARGET},
        "@anyvm": {Place.SOURCE, Place.TARGET},
        ADMIN: {Place.SOURCE, Place.TARGET, Place.REDIRECT, Place.CALL},
        DEFAULT: {Place.TARGET, Place.CALL},
        NET: {Place.TARGET, Place.CALL},
        DISPVM: {Place.TARGET, Place.REDIRECT, Place.CALL},
    }
)
_PREFIX = MappingProxyType(
    {
        "@dispvm:@tag:": {Place.SOURCE, Place.TARGET},
        DISPVM_OF: {Place.SOURCE, Place.TARGET, Place.REDIRECT, Place.CALL},
        "@tag:": {Place.SOURCE, Place.TARGET},
        "@type:": {Place.SOURCE, Place.TARGET},
    }
)
_NAME = re.compile(r"(?:uuid:)?[A-Za-z0-9_][A-Za-z0-9_.-]*")


class TokenError(ValueError):
    """Not a token of this place; ``expected`` and ``hint`` are for a user."""

    def __init__(self, message: str, expected: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Token:
    """``text`` is the written form; ``key`` is common to equal meanings."""

    text: str
    key: str
    prefix: str
    value: str

    @property
    def literal(self) -> bool:
        """Return whether a token is a name (or ``uuid:…``) without ``@`` or ``*``."""
        return not self.prefix


def parse_token(text: str, place: Place, *, compat: bool = False) -> Token:
    """Parse a token of a rule's column; raises TokenError.

    With ``compat`` names are not looked at, as Qubes does not.
    """
    if not text:
        raise TokenError(f"the {place.value} is empty", _expected(place))
    if text != "*" and not text.startswith("@"):
        if not compat:
            _check_name(text)
        return Token(text, ADMIN if text in ADMIN_NAMES else text, "", text)
    written = place is Place.TARGET and compat  # as Qubes reads it: it has no @net
    if place in _EXACT.get(text, ()) and not (text == NET and written):
        return Token(text, text, text, "")
    for prefix, places in _PREFIX.items():
        if not text.startswith(prefix) or place not in places:
            continue
        value = text[len(prefix) :]
        if not value:
            raise TokenError(f"'{text}' is incomplete", f"{prefix}NAME")
        if value.startswith("@"):
            continue
        if not compat:
            _check_name(value)
        return Token(text, text, prefix, value)
    raise TokenError(
        f"'{text[:60]}' is not allowed as a {place.value}",
        _expected(place),
        _hint(text),
    )


def _check_name(text: str) -> None:
    """Check a name's length and characters; raises TokenError."""
    if len(text) > limits.TOKEN_CHARS:
        raise TokenError(
            f"the name has {len(text)} characters", f"at most {limits.TOKEN_CHARS}"
        )
    if not _NAME.fullmatch(text):
        hint = "write the comment on a separate line" if text.startswith("#") else ""
        raise TokenError(
            f"'{text[:60]}' is not a name", "A-Z, a-z, 0-9, '_', '.' and '-'", hint
        )


def _expected(place: Place) -> str:
    exact = [word for word, places in _EXACT.items() if place in places]
    prefixes = [f"{word}NAME" for word, places in _PREFIX.items() if place in places]
    return ", ".join(["a sandbox's name", *exact, *prefixes])


def _hint(text: str) -> str:
    if text in _EXACT or any(text.startswith(prefix) for prefix in _PREFIX):
        return f"'{text[:60]}' is allowed only in another column"
    word, colon, value = text.partition(":")
    near = did_you_mean(word, ["@anyvm", ADMIN, DEFAULT, DISPVM, "@tag", "@type"])
    return near[:-2] + f":{value[:40]}'?" if near and colon else near
