"""Parse points in time, in the grammar of systemd.time(7).

``now``, ``today``, ``yesterday``, ``tomorrow``; ``2026-11-20``,
``[Fri] 2026-11-20 06:00[:30[.5]] [UTC|+02:00|Europe/Berlin]``, ``06:00[:30]``
(today); ``@1790000000[.5]`` (seconds since 1970); ``-2h30min``, ``+5s``,
``2h 30min ago``, ``5s left``.  Local time where no zone is given.

Difference from systemd: a bare year of two digits is refused, as it reads like
a mistake.  A bare number after a sign is seconds in both.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from zoneinfo import ZoneInfo

from broker.core.errors import SetupError
from broker.core.escape import printable

_SECOND = 1_000_000_000
_HINT = "use a time such as '2026-11-20 06:00', 'today', '-2h30min' or '@1790000000'"

# Nanoseconds of each unit.  'M' is months and 'm' minutes, as systemd has it;
# a month is a twelfth of a year and a year 365.25 days.
_UNITS = MappingProxyType(
    {
        **dict.fromkeys(("nsec", "ns"), 1),
        **dict.fromkeys(("usec", "us", "µs", "μs"), 1000),
        **dict.fromkeys(("msec", "ms"), 1_000_000),
        **dict.fromkeys(("seconds", "second", "sec", "s", ""), _SECOND),
        **dict.fromkeys(("minutes", "minute", "min", "m"), 60 * _SECOND),
        **dict.fromkeys(("hours", "hour", "hr", "h"), 3600 * _SECOND),
        **dict.fromkeys(("days", "day", "d"), 86400 * _SECOND),
        **dict.fromkeys(("weeks", "week", "w"), 7 * 86400 * _SECOND),
        **dict.fromkeys(("months", "month", "M"), 2_629_800 * _SECOND),
        **dict.fromkeys(("years", "year", "y"), 31_557_600 * _SECOND),
    }
)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONG_DAYS = (
    *("monday", "tuesday", "wednesday", "thursday"),
    *("friday", "saturday", "sunday"),
)
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*([A-Za-zµμ]*)\s*", re.ASCII)
_STAMP = re.compile(
    rf"(?:(?P<weekday>{'|'.join((*_LONG_DAYS, *_DAYS))}),?\s+)?"
    r"(?:(?P<date>\d{4}-\d{1,2}-\d{1,2}|today|yesterday|tomorrow)(?:[ Tt]\s*|$))?"
    r"(?:(?P<clock>\d{1,2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)\s*)?"
    r"(?P<zone>Z|z|[+-]\d{2}:?\d{2}|[A-Za-z][A-Za-z0-9_+/-]*)?",
    re.ASCII | re.IGNORECASE,
)
_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})", re.ASCII)


def parse_time(text: str, now: datetime) -> int:
    """Parse a point in time; return nanoseconds since 1970 (UTC).

    Dates without a zone are meant in that of ``now``; one without a zone
    means this system's.  Raises SetupError that shows the forms.
    """
    words = " ".join(text.split())
    try:
        found = _relative(words, now)
        if found is None:
            found = _epoch(words)
        if found is None:
            found = _stamp(words, now)
        # A database's integers end there, in the year 2262.
        found.to_bytes(8, signed=True)
    except (ValueError, OverflowError, InvalidOperation, OSError, KeyError) as error:
        raise SetupError(
            f"{printable(text, 60)!r} is not a valid time",
            hint=_HINT,
        ) from error
    return found


def _span(text: str) -> int:
    """Parse a time span as "2h 30min"; return nanoseconds."""
    total, at = Decimal(0), 0
    while at < len(text):
        match = _PART.match(text, at)
        if match is None:
            raise ValueError(text)
        total += Decimal(match[1]) * _unit(match[2])
        at = match.end()
    if not text:
        raise ValueError(text)
    return int(total)


def _unit(word: str) -> int:
    # Only 'M' and 'm' differ by case; the rest is read as it was written on.
    return _UNITS[word] if word in _UNITS else _UNITS[word.lower()]


def _relative(text: str, now: datetime) -> int | None:
    """Parse "now", "… ago", "… left" or "+…"; None for other forms."""
    lower = text.lower()
    if lower == "now":
        return _nanoseconds(now)
    if lower.endswith(" ago"):
        return _nanoseconds(now) - _span(text[:-4].strip())
    if lower.endswith(" left"):
        return _nanoseconds(now) + _span(text[:-5].strip())
    if text[:1] in {"+", "-"}:
        span = _span(text[1:].strip())
        return _nanoseconds(now) + (span if text[0] == "+" else -span)
    return None


def _epoch(text: str) -> int | None:
    """Parse seconds since 1970 ("@…"); None for other forms."""
    if not text.startswith("@"):
        return None
    if re.fullmatch(r"@\d{1,12}(\.\d{1,9})?", text, re.ASCII) is None:
        raise ValueError(text)
    # Not through a float, which is good to 200 ns only.
    return int(Decimal(text[1:]) * _SECOND)


def _stamp(text: str, now: datetime) -> int:
    """Parse a date, a time of day, or both.  Raises ValueError."""
    match = _STAMP.fullmatch(text)
    if match is None or not (match["date"] or match["clock"]):
        raise ValueError(text)
    zone = now.tzinfo if match["zone"] is None else _zone(match["zone"])
    if zone is not now.tzinfo:
        now = now.astimezone(zone)
    day = _day(match["date"] or "today", now)
    weekday = match["weekday"]
    if weekday is not None and _weekday(weekday) != day.weekday():
        raise ValueError(weekday)
    clock = match["clock"] or "0:00"
    hour, minute, second = (clock + ":0").split(":")[:3]
    whole, _, fraction = second.partition(".")
    moment = day.replace(hour=int(hour), minute=int(minute), second=int(whole))
    return _nanoseconds(moment) + int(fraction.ljust(9, "0") if fraction else 0)


def _day(word: str, now: datetime) -> datetime:
    """Return midnight of a day: a date, yesterday, today or tomorrow."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    shift = {"yesterday": -1, "today": 0, "tomorrow": 1}.get(word.lower())
    if shift is not None:
        return midnight + timedelta(days=shift)
    year, month, day = map(int, word.split("-"))
    return midnight.replace(year=year, month=month, day=day)


def _weekday(word: str) -> int:
    names = _DAYS if len(word) == 3 else _LONG_DAYS
    return names.index(word.lower())


def _zone(word: str) -> tzinfo:
    offset = _OFFSET.fullmatch(word)
    if offset is not None:
        shift = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return timezone(shift if offset[1] == "+" else -shift)
    if word.upper() in {"Z", "UTC"}:
        return UTC
    return ZoneInfo(word)


def _nanoseconds(moment: datetime) -> int:
    """Convert a time with a zone, or one in this system's zone."""
    # In two steps: a float of nanoseconds is good to 200 ns only.
    seconds = int(moment.replace(microsecond=0).timestamp())
    return seconds * _SECOND + moment.microsecond * 1000


def rfc3339(time_ns: int) -> str:
    """A time in UTC with nanoseconds: ``2026-11-20T06:00:00.000000001Z``."""
    seconds, rest = divmod(time_ns, _SECOND)
    day = datetime(1970, 1, 1) + timedelta(seconds=seconds)  # noqa: DTZ001 -- Z below
    return f"{day.isoformat()}.{rest:09d}Z"
