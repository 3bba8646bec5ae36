"""Kinds of values that a policy file may hold.

One object of a kind does three jobs, so that they cannot disagree: it checks a
value, names the expected one, and names itself in the reference.  ``schema`` describes
it to editors.

The authority, brokerctl and session children read files by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from policy import limits
from policy.suggestions import did_you_mean

Path = tuple[str | int, ...]

Complain = Callable[[Path, str, str, str], None]
"""Takes a complaint about a value: path, message, expected, hint."""


class ValueRefused:
    """Type of ``REFUSED``."""


REFUSED = ValueRefused()
"""The result of ``take`` after it has reported a problem."""


class Kind(Protocol):
    """A kind of value."""

    @property
    def words(self) -> str:
        """The expected value, as in ``expected: …`` and in the reference."""
        ...

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Return the clean value, or complain and return ``REFUSED``."""
        ...


def refuse(
    kind: Kind, value: object, path: Path, complain: Complain, hint: str = ""
) -> ValueRefused:
    """Complain that a value is not of a kind."""
    complain(path, f"{show(value)} is not allowed here", kind.words, hint)
    return REFUSED


def show(value: object) -> str:
    """Return a value for an error message: a text shortened, a table by its kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value[:40]}…"' if len(value) > 40 else f'"{value}"'
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return "an array"
    return "a table" if isinstance(value, Mapping) else "a date or time"


def is_whole(value: object, low: int, high: int) -> bool:
    """Return whether a value is a whole number in a range (``true`` is not)."""
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and low <= value <= high  # type: ignore[operator]


NAME = "[a-z][a-z0-9-]{0,30}"


@dataclass(frozen=True)
class Choice:
    """One of some words, each with a sentence on its effect.

    ``NAME`` in a word is any name of a sandbox.  ``instead``: values that people try, and
    those to write in their place.
    """

    options: Mapping[str, str]
    instead: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The words, quoted."""
        return " or ".join(f'"{option}"' for option in self.options)

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate an option's name; see ``Kind``."""
        if isinstance(value, str) and any(
            re.fullmatch(word.replace("NAME", NAME), value) for word in self.options
        ):
            return value
        hint = self.instead.get(value, "") if isinstance(value, str) else ""
        hint = hint or did_you_mean(value, self.options)
        return refuse(self, value, path, complain, hint)


@dataclass(frozen=True)
class Whole:
    """A whole number in a range."""

    low: int
    high: int
    unit: str = ""

    @property
    def words(self) -> str:
        """The range and the unit."""
        return f"a whole number from {self.low} to {self.high}" + (
            f" ({self.unit})" if self.unit else ""
        )

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """See ``Kind``."""
        if is_whole(value, self.low, self.high):
            return value
        return refuse(self, value, path, complain)


@dataclass(frozen=True)
class MemoryAmount:
    """An amount of memory in MiB, or text such as ``"768M"`` or ``"2G"``."""

    low: int
    high: int

    @property
    def range_words(self) -> str:
        """The range alone."""
        return f"{self.low} to {self.high} MiB"

    @property
    def words(self) -> str:
        """The range and the ways to write it."""
        return f'{self.range_words}, such as 768, "768M" or "2G"'

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate an amount of memory; see ``Kind``.

        The clean value is an int in MiB.
        """
        amount: object = value
        if isinstance(value, str) and (found := re.fullmatch(MEMORY_FORM, value)):
            amount = int(found[1]) * (1024 if found[2] == "G" else 1)
        if is_whole(amount, self.low, self.high):
            return amount
        return refuse(self, value, path, complain)


MEMORY_FORM = "([1-9][0-9]{0,7})([MG])"


@dataclass(frozen=True)
class Pattern:
    """Text of one form."""

    words: str
    regex: str
    max_length: int

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a text by the pattern; see ``Kind``."""
        fits = isinstance(value, str) and len(value) <= self.max_length
        if fits and re.fullmatch(self.regex, str(value), re.ASCII):
            return value
        lower = str(value).lower()
        hint = f'write "{lower}"' if re.fullmatch(self.regex, lower, re.ASCII) else ""
        return refuse(self, value, path, complain, hint if fits else "")


@dataclass(frozen=True)
class Title:
    """Text that people read beside others: short, printable, not padded."""

    max_length: int

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"1 to {self.max_length} printable characters without leading or trailing spaces"

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a title to be shown; see ``Kind``."""
        if isinstance(value, str) and 0 < len(value) <= self.max_length:
            plain = value.isprintable() and value.strip() == value
            if plain:
                return value
        return refuse(self, value, path, complain)


@dataclass(frozen=True)
class Colour:
    """``#rrggbb`` or a name of the palette; the clean value is ``#rrggbb``."""

    palette: Mapping[str, str]

    @property
    def words(self) -> str:
        """The form and the names."""
        return f"#rrggbb or one of {', '.join(self.palette)}"

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a colour's name or value; see ``Kind``."""
        if isinstance(value, str):
            if value in self.palette:
                return self.palette[value]
            if re.fullmatch("#[0-9a-fA-F]{6}", value):
                return value.lower()
        return refuse(self, value, path, complain, did_you_mean(value, self.palette))


@dataclass(frozen=True)
class SocketPath:
    """An absolute path that fits into a UNIX socket address."""

    max_bytes: int

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"an absolute path of at most {self.max_bytes} bytes without '..'"

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a path for a socket; see ``Kind``."""
        if isinstance(value, str) and len(value) > 1 and value.startswith("/"):
            plain = value.isprintable() and not value.endswith("/")
            parts = value[1:].split("/")
            canonical = not {"", ".", ".."}.intersection(parts)
            if plain and canonical and len(value.encode()) <= self.max_bytes:
                return value
        return refuse(self, value, path, complain)


@dataclass(frozen=True)
class WholeRange:
    """A first and a last whole number, as in "100-199"."""

    low: int
    high: int

    @property
    def words(self) -> str:
        """The rule in words."""
        return f'"FIRST-LAST", whole numbers from {self.low} to {self.high}'

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a range; see ``Kind``."""
        if isinstance(value, str) and re.fullmatch(
            r"[1-9][0-9]{0,9}-[1-9][0-9]{0,9}", value
        ):
            first, last = map(int, value.split("-"))
            if self.low <= first <= last <= self.high:
                return value
        return refuse(self, value, path, complain)


@dataclass(frozen=True)
class Words:
    """An array of text, all of one kind; the clean value is a tuple."""

    item: Kind
    words: str
    low: int
    high: int
    unique: bool = False
    max_bytes: int = 1 << 30

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """Validate a list of words; see ``Kind``."""
        if not isinstance(value, list) or not self.low <= len(value) <= self.high:
            alone = isinstance(value, str) and self.high
            hint = f"write [{show(value)}]" if alone else ""
            return refuse(self, value, path, complain, hint)
        items = [
            self.item.take(item, (*path, index), complain)
            for index, item in enumerate(value)
        ]
        if REFUSED in items:
            return REFUSED
        for index, item in enumerate(items):
            if self.unique and item in items[:index]:
                complain(
                    (*path, index), f"{show(item)} is already in the array", "", ""
                )
                return REFUSED
        if sum(len(str(item).encode()) + 1 for item in items) > self.max_bytes:
            complain(
                path,
                "the array is too long",
                f"at most {self.max_bytes} bytes in total",
                "",
            )
            return REFUSED
        return tuple(items)


@dataclass(frozen=True)
class Argument:
    """One word of a command line: any text without NUL that UTF-8 can hold."""

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"text of at most {limits.COMMAND_BYTES - 1} bytes without NUL"

    def take(self, value: object, path: Path, complain: Complain) -> object:
        """See ``Kind``."""
        if isinstance(value, str) and "\0" not in value:
            return value
        return refuse(self, value, path, complain)


@dataclass(frozen=True)
class Field:
    """A key of a table: its kind and its meaning.

    ``default`` is written as in the file; None means that none exists, and
    ``default_words`` then says what holds instead.  ``only`` has the values of
    ``launch.kind`` that the key belongs to; none: all.  ``own``: not inherited.
    """

    key: str
    kind: Kind
    summary: str
    default: object = None
    default_words: str = ""
    required: bool = False
    only: tuple[str, ...] = ()
    own: bool = False

    def belongs_to(self, kind: str) -> bool:
        """Return whether this has a meaning where ``launch.kind`` is ``kind``."""
        return not self.only or kind in self.only


@dataclass(frozen=True)
class Table:
    """A table of a file; ``name`` is empty for the file's top.

    ``short``: the key that is meant where a word is in place of the table
    (``audio = "raw"``).  ``own``: none of it is inherited.  ``only`` is
    as that of a field.  ``if_set``: of kinds whose records have no value of the table
    unless they set one of its keys.
    """

    name: str
    summary: str
    fields: tuple[Field, ...]
    only: tuple[str, ...] = ()
    short: str = ""
    own: bool = False
    if_set: tuple[str, ...] = ()

    def belongs_to(self, kind: str) -> bool:
        """Return whether this has a meaning where ``launch.kind`` is ``kind``."""
        return not self.only or kind in self.only

    @property
    def by_key(self) -> Mapping[str, Field]:
        """The fields by key."""
        return MappingProxyType({field.key: field for field in self.fields})
