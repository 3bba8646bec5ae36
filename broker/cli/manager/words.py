"""The manager's texts in the user's language, with values that cannot reorder them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from typing import Final

from broker.core.escape import displayed
from broker.core.language.catalogue import Catalogue, languages, mark

_ISOLATE, _END = "\u2068", "\u2069"
"""FIRST STRONG ISOLATE and POP DIRECTIONAL ISOLATE (UAX #9)."""
_LEFT = "\u200e"
"""LEFT-TO-RIGHT MARK: no language of a catalogue is written from right to left."""
_STRONG: Final = frozenset({"R", "AL", "AN"})
catalogue = Catalogue("manager", languages(os.environ))


_KNOWN: Final = frozenset(
    {
        # settings
        *(mark("sound"), mark("microphone"), mark("network"), mark("windows")),
        *(mark("colour"), mark("title"), mark("memory"), mark("autostart")),
        *(mark("fullscreen"), mark("class")),
        # their values
        *(mark("on"), mark("off"), mark("allow"), mark("ask"), mark("deny")),
        *(mark("none"), mark("user"), mark("rules"), mark("login")),
        *(mark("fake"), mark("framed"), mark("real")),
        *(mark("disposable"), mark("persistent")),
        *(mark("orange"), mark("sky"), mark("green"), mark("yellow")),
        *(mark("blue"), mark("red"), mark("purple"), mark("grey")),
        # states of sandboxes and devices
        *(mark("starting"), mark("running"), mark("stopping"), mark("failed")),
        *(mark("no agent yet"), mark("stopped"), mark("error")),
        mark("suspended"),
        *(mark("plugged"), mark("attaching"), mark("attached")),
        *(mark("detaching"), mark("held")),
        # what a sandbox is for
        *(mark("browser"), mark("mail"), mark("office"), mark("media")),
        *(mark("chat"), mark("development"), mark("untrusted"), mark("offline")),
    }
)
"""ManagerText of records and of the broker that pages show in the user's language."""


class ManagerText(str):
    """A text in which every value is escaped, and isolated if it could reorder the text.

    What is made of it by other means than ``joined`` is an ordinary text, which is
    escaped again, its isolates included.
    """

    __slots__ = ()


def tr(message: str, /, **values: object) -> ManagerText:
    """Return a message in the user's language, with values for its ``{name}``."""
    return _directed(catalogue.text(message, **_isolated(values)))


def trn(one: str, many: str, number: int, /, **values: object) -> ManagerText:
    """Return the form of a message for a number, which is its ``{number}``."""
    return _directed(catalogue.plural(one, many, number, **_isolated(values)))


def known(word: str) -> str:
    """Return a word that the broker sent in the user's language, if we have it there."""
    return ManagerText(catalogue.text(word)) if word in _KNOWN else word


def begun(text: str) -> str:
    """Return a text with a capital letter at its beginning."""
    return type(text)(text[:1].upper() + text[1:])


def joined(between: str, parts: Iterable[str]) -> ManagerText:
    """Return those parts that are not empty in one text."""
    return _directed(between.join(isolated(part) for part in parts if part))


def shown(text: str) -> str:
    """Return a text without what drives a terminal or reorders the text beside it."""
    # PyGObject makes no value of a property of GTK from a subclass of str.
    return str(text) if isinstance(text, ManagerText) else displayed(text)


def isolated(text: str) -> str:
    """Return an escaped text that does not change the order of what is around it."""
    plain = shown(text)
    # guard: a name does not reorder the sentence that it stands in
    if _STRONG.intersection(map(unicodedata.bidirectional, plain)):
        return f"{_ISOLATE}{plain}{_END}"
    return plain


def _directed(text: str) -> ManagerText:
    """Return a text whose lines are written from left to right.

    Else Pango (1.50) takes it from the first letter, which may be that of a name, as it
    looks into isolates, too.
    """
    if _ISOLATE not in text:
        return ManagerText(text)
    lines = (line if line[:1] == _LEFT else _LEFT + line for line in text.split("\n"))
    # guard: a name at the beginning of a sentence does not turn it around
    return ManagerText("\n".join(lines))


def _isolated(values: dict[str, object]) -> dict[str, object]:
    return {
        name: isolated(value) if isinstance(value, str) else value
        for name, value in values.items()
    }
