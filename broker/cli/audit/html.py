"""Write the report as one HTML file, without scripts or external resources.

The page is the template ``data/report/report.html.jinja``.  Every value that it
prints is escaped twice, everywhere: for what a user would misread
(``_printed``), and for HTML (jinja2's autoescape).  The page forbids itself scripts
and requests (Content-Security-Policy), so that a mistake here would still be one
that only looks bad.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import cache
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from broker.cli import render
from broker.cli.audit.events import as_message
from broker.cli.audit.query.digest import (
    COLUMNS,
    Digest,
    EventGroup,
    Lane,
    SharedFields,
)
from broker.core.escape import printable
from broker.ipc.audit.filters import Found

_SECOND = 1_000_000_000
_TOP = 50
_HEIGHT = 26
_TEXT_CHARACTERS = 300


def page(
    digest: Digest, *, title: str, asked: str, zone: tzinfo | None
) -> Iterator[str]:
    """Yield the report's HTML page in pieces.

    ``asked`` is the question in words, ``zone`` the one that times are shown
    in, or None for the system's.
    """
    lanes = digest.lanes.values()
    first, last = digest.first, digest.last
    template = _environment().get_template("report.html.jinja")
    yield from template.generate(
        digest=digest,
        title=title,
        asked=asked,
        clock=_Clock(zone),
        cards=_cards(digest),
        lanes=sorted(lanes, key=lambda lane: (lane.machine, lane.sandbox)),
        most_events=max((max(lane.any) for lane in lanes), default=1),
        columns=COLUMNS,
        height=_HEIGHT,
        talkers=_talkers(lanes),
        denials=_table(digest.denials),
        grants=_table(digest.grants),
        answers=_latest(digest.answers),
        troubles=_latest(digest.troubles),
        numbered=first is not None and last is not None and not last.machine,
        made_ns=time.time_ns(),
    )


@cache
def _environment() -> Environment:
    """Create the template engine of the report."""
    # guard: the report is text and not markup
    env = Environment(
        loader=PackageLoader("broker", "data/report"),
        autoescape=True,
        finalize=_printed,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {
        "bars": _bars,
        "base_name": _base_name,
        "message": _message,
        "seconds": render.seconds,
        "share": _share,
        "size": render.size,
        "thousands": "{:,}".format,
    }
    return env


def _printed(untrusted_value: object) -> object:
    """Return a value as a tag prints it; markup is that of the template's macros."""
    if isinstance(untrusted_value, str) and not isinstance(untrusted_value, Markup):
        # guard: the report shows no hidden character
        return printable(untrusted_value, _TEXT_CHARACTERS)
    return untrusted_value


def _message(found: Found) -> Markup:
    # Escaped for a user already, as for a terminal.
    return Markup.escape(as_message(found).plain)


def _base_name(rule: str) -> str:
    """The file's own name; the whole location is shown as a tooltip."""
    return rule.rpartition("/")[2]


class _Clock:
    def __init__(self, zone: tzinfo | None) -> None:
        self._zone = zone

    def full(self, time_ns: int) -> str:
        return f"{datetime.fromtimestamp(time_ns // _SECOND, tz=self._zone):%Y-%m-%d %H:%M:%S}"

    def short(self, time_ns: int) -> str:
        return (
            f"{datetime.fromtimestamp(time_ns // _SECOND, tz=self._zone):%m-%d %H:%M}"
        )

    def name(self) -> str:
        now = datetime.now(self._zone)
        return (now if now.tzinfo else now.astimezone()).strftime("%Z (UTC%z)")


class _Card(NamedTuple):
    name: str
    value: str
    bad: bool = False


def _cards(digest: Digest) -> list[_Card]:
    """Return the report's headline figures."""
    lanes = digest.lanes.values()
    denied = sum(group.count for group in digest.denials.values())
    return [
        _Card("events", f"{digest.events:,}"),
        _Card("sandboxes", str(len(digest.lanes))),
        _Card("denied", f"{denied:,}", bad=bool(denied)),
        _Card("streams closed", f"{sum(lane.streams for lane in lanes):,}"),
        _Card("from sandboxes", render.size(sum(lane.sent for lane in lanes))),
        _Card("to sandboxes", render.size(sum(lane.got for lane in lanes))),
        _Card("trouble", str(len(digest.troubles)), bad=bool(digest.troubles)),
    ]


# -- bars ------------------------------------------------------------------------------


class _Rect(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    colour: str


def _bars(lane: Lane, most: int) -> Iterator[_Rect]:
    """Yield the rectangles of a sandbox's timeline: leases, events, denials."""
    for begin, end in _runs(lane.alive):
        yield _Rect(begin, 0, end - begin, _HEIGHT, "alive")
    for column, count in enumerate(lane.any):
        if count:
            yield _bar(column, count / most, 2.0, "any")
        if lane.bad[column]:
            yield _bar(column, min(lane.bad[column], most) / most, 3.0, "bad")


def _bar(column: int, part: float, least: float, colour: str) -> _Rect:
    # The root keeps a single event visible beside a thousand.
    height = round(max(least, (_HEIGHT - 2) * part**0.5), 1)
    return _Rect(column, round(_HEIGHT - height, 1), 0.9, height, colour)


def _runs(alive: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each run of true values."""
    begin = -1
    for column, one in enumerate((*alive, False)):
        if one and begin < 0:
            begin = column
        elif not one and begin >= 0:
            yield begin, column
            begin = -1


def _talkers(lanes: Iterable[Lane]) -> list[Lane]:
    talkers = [lane for lane in lanes if lane.streams]
    return sorted(talkers, key=lambda lane: -(lane.sent + lane.got))[:_TOP]


def _share(lane: Lane, top: Lane) -> _Rect:
    """Its bytes, as a part of those of the sandbox with the most."""
    width = 100 * (lane.sent + lane.got) / max(top.sent + top.got, 1)
    return _Rect(0, 0, round(max(width, 0.5), 3), 10, "bar")


# -- tables ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    rows: list[tuple[SharedFields, EventGroup]]
    more: int
    """Decisions of the kinds that have no row."""
    more_kinds: int


def _table(groups: dict[SharedFields, EventGroup]) -> _Table:
    """The most frequent decisions."""
    ordered = sorted(groups.items(), key=lambda pair: (-pair[1].count, pair[0]))
    rest = ordered[_TOP:]
    return _Table(ordered[:_TOP], sum(group.count for _, group in rest), len(rest))


def _latest(events: Iterable[Found]) -> list[Found]:
    return [*events][-_TOP:][::-1]
