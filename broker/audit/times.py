"""Points in time as people write them for ``--since``.

``now``, ``today``, ``yesterday``; ``2026-11-20``, ``2026-11-20 06:00[:30]``,
``06:00[:30]`` (today); ``@1790000000`` (seconds since 1970); ``-90s``,
``-15min``, ``-2h``, ``-3d`` or ``15min ago``.  Local time where no zone is
given.  The forms are a part of systemd.time(7) and mean the same there.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from types import MappingProxyType

from broker.core.errors import SetupError
from broker.core.escape import printable

_UNITS = MappingProxyType(
    {
        **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
        **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
        **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
        **dict.fromkeys(("d", "day", "days"), 86400),
        **dict.fromkeys(("w", "week", "weeks"), 7 * 86400),
    }
)
_SPAN = re.compile(r"(?:-\s*(\d{1,9})\s*([a-z]*)|(\d{1,9})\s*([a-z]+)\s+ago)")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2})?")


def parse_time(text: str, now: datetime) -> int:
    """Return nanoseconds since 1970 (UTC).

    ``now`` is aware, in the zone that dates without one are meant in.
    Raises SetupError that shows the forms.
    """
    text = " ".join(text.strip().lower().split())
    try:
        found = _span(text, now) or _words(text, now) or _date(text, now)
    except (ValueError, OverflowError) as error:
        raise SetupError(
            f"not a time: {printable(text, 60)!r}",
            hint="for example '2026-11-20 06:00', 'today', '-2h' or '@1790000000'",
        ) from error
    # In two steps: a float of nanoseconds is good to 200 ns only.
    return int(found.timestamp()) * 1_000_000_000 + found.microsecond * 1000


def _span(text: str, now: datetime) -> datetime | None:
    match = _SPAN.fullmatch(text)
    if match is None:
        return None
    number, unit = match[1] or match[3], match[2] or match[4] or "s"
    if unit not in _UNITS:
        raise ValueError(unit)
    return now - timedelta(seconds=int(number) * _UNITS[unit])


def _words(text: str, now: datetime) -> datetime | None:
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text == "now":
        return now
    if text == "today":
        return midnight
    if text == "yesterday":
        return midnight - timedelta(days=1)
    if text.startswith("@"):
        return datetime.fromtimestamp(float(text[1:]), tz=now.tzinfo)
    return None


def _date(text: str, now: datetime) -> datetime:
    if _CLOCK.fullmatch(text):
        hour, _, rest = text.partition(":")
        text = f"{now.date().isoformat()} {int(hour):02d}:{rest}"
    found = datetime.fromisoformat(text.upper())
    return found if found.tzinfo else found.replace(tzinfo=now.tzinfo)


def rfc3339(time_ns: int) -> str:
    """A time in UTC with nanoseconds: ``2026-11-20T06:00:00.000000001Z``."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    day = datetime(1970, 1, 1) + timedelta(seconds=seconds)  # noqa: DTZ001 -- Z below
    return f"{day.isoformat()}.{rest:09d}Z"
