"""The report as one HTML file: no script, nothing from anywhere else.

Every word of an event goes through ``_text``: escaped once for what a person
would misread, and once for HTML.  The page forbids itself scripts and
requests (Content-Security-Policy), so that a mistake here would still be one
that only looks bad.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, tzinfo

from broker.audit.digest import COLUMNS, Digest, Group, Lane, Subject
from broker.audit.filters import Found
from broker.cli import render
from broker.cli.audit.events import as_message
from broker.core.escape import printable

_SECOND = 1_000_000_000
_TOP = 50
_HEIGHT = 26

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #8889; --bar: #3b6fb6;
  --bad: #c62f2f; --alive: #3b6fb622; --any: #3b6fb6; --card: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p.sub { color: GrayText; margin: 0 0 1rem; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
.card { background: var(--card); border-radius: .5rem; padding: .6rem 1rem; }
.card b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.card.bad b { color: var(--bad); }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; color: GrayText; font-size: .85rem; }
th, td { padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.t { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.bar { width: 24%; vertical-align: middle; }
td.lane { padding: 0; width: 70%; vertical-align: middle; }
svg { display: block; width: 100%; height: 26px; }
.axis { display: flex; justify-content: space-between; color: GrayText;
  font-size: .8rem; margin-left: 30%; }
.key span { margin-right: 1.2rem; } .key i { display: inline-block; width: .8rem;
  height: .8rem; margin-right: .35rem; vertical-align: -1px; }
footer { color: GrayText; margin-top: 3rem; font-size: .85rem; }
@media print { body { margin: 0; max-width: none; } }
"""


def page(
    digest: Digest, *, title: str, asked: str, zone: tzinfo | None
) -> Iterator[str]:
    """Yield the page in pieces.

    ``asked`` is the question in words, ``zone`` the one that times are shown
    in, or None for the system's.
    """
    clock = _Clock(zone)
    yield from (
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n",
        (
            "<meta http-equiv=Content-Security-Policy "
            "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        ),
        "<meta name=viewport content='width=device-width, initial-scale=1'>\n",
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n",
        f"<h1>{_text(title)}</h1>\n<p class=sub>{_span(digest, clock)}",
        f" · {_text(asked)}" if asked else "",
        "</p>\n",
    )
    if not digest.events:
        yield "<p>Nothing was found.</p>\n"
        return
    yield _cards(digest)
    yield from _timeline(digest, clock)
    yield from _talkers(digest)
    yield from _groups("Denied attempts", digest.denials, clock, "Nothing was denied.")
    yield from _groups("Granted", digest.grants, clock, "Nothing was granted.")
    yield from _list(
        "Questions and grants", digest.answers, clock, "No questions were asked."
    )
    yield from _list("Trouble", digest.troubles, clock, "None.")
    yield _foot(digest, clock)


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


def _text(text: str, limit: int = 300) -> str:
    return html.escape(printable(text, limit))


def _span(digest: Digest, clock: _Clock) -> str:
    return (
        f"{clock.full(digest.begin_ns)} to {clock.full(digest.end_ns)}, {clock.name()}"
    )


def _cards(digest: Digest) -> str:
    lanes = digest.lanes.values()
    denied = sum(group.count for group in digest.denials.values())
    cards = [
        ("events", f"{digest.events:,}", ""),
        ("sandboxes", str(len(digest.lanes)), ""),
        ("denied", f"{denied:,}", "bad" if denied else ""),
        ("streams closed", f"{sum(lane.streams for lane in lanes):,}", ""),
        ("from sandboxes", render.size(sum(lane.sent for lane in lanes)), ""),
        ("to sandboxes", render.size(sum(lane.got for lane in lanes)), ""),
        ("trouble", str(len(digest.troubles)), "bad" if digest.troubles else ""),
    ]
    inner = "".join(
        f"<div class='card {mark}'><b>{value}</b>{name}</div>"
        for name, value, mark in cards
    )
    return f"<div class=cards>{inner}</div>\n"


def _timeline(digest: Digest, clock: _Clock) -> Iterator[str]:
    yield "<h2>Timeline</h2>\n<p class=key>"
    for colour, words in (
        ("alive", "had a lease"),
        ("any", "events"),
        ("bad", "denied or refused"),
    ):
        yield f"<span><i style='background:var(--{colour})'></i>{words}</span>"
    yield "</p>\n<table>\n"
    most = max((max(lane.any) for lane in digest.lanes.values()), default=1)
    for lane in _by_events(digest):
        yield (
            f"<tr><td>{_name(lane)}<td class=n>{lane.events:,}"
            f"<td class=lane>{_strip(lane, most)}\n"
        )
    middle = (digest.begin_ns + digest.end_ns) // 2
    times = "".join(
        f"<span>{clock.short(t)}</span>"
        for t in (digest.begin_ns, middle, digest.end_ns)
    )
    yield f"</table>\n<div class=axis>{times}</div>\n"


def _by_events(digest: Digest) -> list[Lane]:
    return sorted(digest.lanes.values(), key=lambda lane: (lane.machine, lane.sandbox))


def _name(lane: Lane) -> str:
    machine = f"{_text(lane.machine)} · " if lane.machine else ""
    return f"{machine}<b>{_text(lane.sandbox)}</b>"


def _strip(lane: Lane, most: int) -> str:
    """A sandbox's timeline: leases behind, events above, denials in red."""
    parts: list[str] = []
    for begin, end in _runs(lane.alive):
        parts.append(_rect(begin, 0, end - begin, _HEIGHT, "alive"))
    for column, count in enumerate(lane.any):
        if count:
            # The root keeps a single event visible beside a thousand.
            height = max(2.0, (_HEIGHT - 2) * (count / most) ** 0.5)
            parts.append(_rect(column, _HEIGHT - height, 0.9, height, "any"))
        if lane.bad[column]:
            height = max(
                3.0, (_HEIGHT - 2) * (min(lane.bad[column], most) / most) ** 0.5
            )
            parts.append(_rect(column, _HEIGHT - height, 0.9, height, "bad"))
    label = f"{lane.events} events, {lane.denied} denied"
    return (
        f"<svg viewBox='0 0 {COLUMNS} {_HEIGHT}' preserveAspectRatio=none role=img "
        f"aria-label='{label}'>{''.join(parts)}</svg>"
    )


def _runs(alive: Sequence[bool]) -> Iterator[tuple[int, int]]:
    begin = -1
    for column, one in enumerate((*alive, False)):
        if one and begin < 0:
            begin = column
        elif not one and begin >= 0:
            yield begin, column
            begin = -1


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f"<rect x={x:g} y={y:.1f} width={width:g} height={height:.1f} "
        f"fill='var(--{colour})'/>"
    )


def _talkers(digest: Digest) -> Iterator[str]:
    lanes = sorted(digest.lanes.values(), key=lambda lane: -(lane.sent + lane.got))
    lanes = [lane for lane in lanes if lane.streams][:_TOP]
    yield "<h2>Top talkers</h2>\n"
    if not lanes:
        yield "<p>No stream was closed.</p>\n"
        return
    most = max(lanes[0].sent + lanes[0].got, 1)
    yield (
        "<table><tr><th>sandbox<th class=n>streams<th class=n>sent<th class=n>"
        "received<th class=n>open<th>\n"
    )
    for lane in lanes:
        width = 100 * (lane.sent + lane.got) / most
        bar = (
            "<svg viewBox='0 0 100 10' preserveAspectRatio=none style='height:10px'>"
            f"{_rect(0, 0, max(width, 0.5), 10, 'bar')}</svg>"
        )
        yield (
            f"<tr><td>{_name(lane)}<td class=n>{lane.streams:,}"
            f"<td class=n>{render.size(lane.sent)}<td class=n>{render.size(lane.got)}"
            f"<td class=n>{render.seconds(lane.seconds)}<td class=bar>{bar}\n"
        )
    yield "</table>\n"


def _groups(
    title: str, groups: dict[Subject, Group], clock: _Clock, nothing: str
) -> Iterator[str]:
    yield f"<h2>{title}</h2>\n"
    if not groups:
        yield f"<p>{nothing}</p>\n"
        return
    shown = sorted(groups.items(), key=lambda pair: (-pair[1].count, pair[0]))
    yield (
        "<table><tr><th class=n>times<th>sandbox<th>what<th>rule<th>why, or from whom"
        "<th>first<th>last\n"
    )
    for subject, group in shown[:_TOP]:
        machine = f"{_text(subject.machine)} · " if subject.machine else ""
        target = f" → {_text(subject.target)}" if subject.target else ""
        yield (
            f"<tr><td class=n>{group.count:,}<td>{machine}{_sandbox(subject.sandbox)}"
            f"<td>{_text(subject.service)}{target}<td>{_rule(subject.rule)}"
            f"<td>{_text(subject.reason)}<td class=t>{clock.short(group.first_ns)}"
            f"<td class=t>{clock.short(group.last_ns)}\n"
        )
    yield "</table>\n"
    if len(shown) > _TOP:
        rest = sum(group.count for _subject, group in shown[_TOP:])
        yield f"<p>and {rest:,} more of {len(shown) - _TOP} other kinds.</p>\n"


def _sandbox(name: str) -> str:
    return f"<b>{_text(name)}</b>" if name else "unknown sandbox"


def _rule(rule: str) -> str:
    """The file's own name; the whole location is shown as a tooltip."""
    short = rule.rpartition("/")[2]
    return f"<span title='{_text(rule)}'>{_text(short)}</span>" if rule else ""


def _list(
    title: str, events: Iterable[Found], clock: _Clock, nothing: str
) -> Iterator[str]:
    yield f"<h2>{title}</h2>\n"
    latest = [*events][-_TOP:]
    if not latest:
        yield f"<p>{nothing}</p>\n"
        return
    yield "<table><tr><th>when<th>event\n"
    for found in reversed(latest):
        machine = f"{_text(found.machine)} · " if found.machine else ""
        # Escaped already, as for a terminal.
        message = html.escape(as_message(found).plain)
        yield f"<tr><td class=t>{clock.full(found.time_ns)}<td>{machine}{message}\n"
    yield "</table>\n"


def _foot(digest: Digest, clock: _Clock) -> str:
    first, last = digest.first, digest.last
    words = ""
    if first is not None and last is not None and not last.machine:
        words = f"Events {first.sequence:,} to {last.sequence:,}. "
    beyond = f"{digest.beyond:,} events did not fit in here. " if digest.beyond else ""
    made = clock.full(int(datetime.now().timestamp()) * _SECOND)  # noqa: DTZ005
    return f"<footer>{words}{beyond}Made {made} by brokerctl audit report.</footer>\n"
