"""Queries of a log and their results; the same for every store.

Nothing here opens anything: ``query`` asks the broker's own database,
``fleet`` a PostgreSQL that many machines ship to.

brokerctl makes a query from its options and prints the results; the shipper asks for
what it has not sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import translate

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import IntegrityError

NAMED = ("sandbox", "lease", "service", "verdict", "rule", "peer", "outcome")
"""The fields that can be asked for by value."""

_LOWER = frozenset({"sandbox", "lease", "verdict"})
"""Their values have no capitals, so that none need be looked up to compare them."""


@dataclass(frozen=True)
class Filters:
    """The conditions of a query; empty means everything.

    The same field more than once means *or*, different fields mean *and*.
    A value with ``*``, ``?`` or ``[`` is a pattern as the shell has it.
    """

    sandboxes: Sequence[str] = ()
    kinds: Sequence[str] = ()
    """A kind, or its first word for all of them (``stream``)."""
    leases: Sequence[str] = ()
    since_ns: int | None = None
    until_ns: int | None = None
    """Events of this very time are still in."""
    services: Sequence[str] = ()
    """With or without ``vitrail.`` in front."""
    verdicts: Sequence[str] = ()
    rules: Sequence[str] = ()
    """``file``, ``file:line`` or ``file:line:column``; the file by its whole
    path or by its last names."""
    peers: Sequence[str] = ()
    outcomes: Sequence[str] = ()
    boot: str = ""
    """A kernel's boot id."""
    objects: Sequence[str] = ()
    """The requested object: an address, a file, a device; a pattern, too."""
    machines: Sequence[str] = ()
    """Only in a fleet's store: the machines' names."""
    owners: Sequence[str] = ()
    """Only in a fleet's store: the roles of the database that shipped them."""

    def named(self) -> dict[str, Sequence[str]]:
        """Return the wanted values by field, of those fields that are asked for."""
        wanted = (
            *(self.sandboxes, self.leases, self.services, self.verdicts),
            *(self.rules, self.peers, self.outcomes),
        )
        return {
            field: values for field, values in zip(NAMED, wanted, strict=True) if values
        }


@dataclass(frozen=True)
class Found:
    """One recorded event; ``body`` is the JSON as it was written."""

    sequence: int
    time_ns: int
    kind: str
    sandbox: str
    body: str
    machine: str = ""
    """Only in a fleet's store: whose log it is in."""
    log: str = ""
    """Only in a fleet's store: the log's id."""
    time_after_arrival: bool = False
    """Only in a fleet's store: it says that it came after it had arrived there."""

    def fields(self) -> dict[str, object]:
        """Decode the event's fields, also of a kind that this version does not know.

        Raises IntegrityError when the body is not a JSON object: we write none such.
        """
        try:
            return msgspec.json.decode(self.body, type=dict[str, object])
        except UNREADABLE as error:
            raise IntegrityError(
                f"event {self.sequence} was not written by a broker: {error}",
                hint="to see what was changed in the log, run 'brokerctl audit verify'",
            ) from error


def choose(
    field: str, wanted: Iterable[str], recorded: Callable[[], Iterable[str]]
) -> list[str]:
    """Return the recorded values that words of a query mean: exact, patterns, short.

    ``recorded`` says which there are, and is only called where that matters:
    for patterns, and for rules, which may be named in short.
    """
    exact: list[str] = []
    tests: list[Callable[[str], object]] = []
    for word in wanted:
        if any(c in word for c in "*?["):
            tests.append(re.compile(translate(word), re.IGNORECASE).match)
        elif field == "rule":
            tests.append(re.compile(_rule(word), re.IGNORECASE).search)
        elif field in _LOWER:
            exact.append(word.lower())
        elif field == "service" and "." not in word:
            exact += [word, f"vitrail.{word}"]
            tests.append(_equal(word, f"vitrail.{word}"))
        else:
            exact.append(word)
            tests.append(_equal(word))
    if tests:
        exact += [v for v in recorded() if any(test(v) for test in tests)]
    return list(dict.fromkeys(exact))


def _equal(*words: str) -> Callable[[str], bool]:
    """Return whether a value is among these, capitals or not."""
    wanted = {word.casefold() for word in words}
    return lambda value: value.casefold() in wanted


def _rule(word: str) -> str:
    """As a regular expression: whole names of the path, whole numbers."""
    return rf"(?:^|/){re.escape(word)}(?::\d+){{0,2}}$"


def value_texts(found: Found) -> Iterable[str]:
    """Yield every value of an event as text, for a full-text search."""
    for value in found.fields().values():
        if isinstance(value, dict):
            yield from (str(inner) for inner in value.values())
        elif isinstance(value, list):
            yield from (str(inner) for inner in value)
        else:
            yield str(value)


def kinds_among(known: Iterable[str], wanted: Collection[str]) -> list[str]:
    """Return the known kinds of events that are wanted, by name or by their first word."""
    return [k for k in known if k in wanted or k.partition(".")[0] in wanted]
