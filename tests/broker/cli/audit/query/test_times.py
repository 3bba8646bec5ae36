"""Points in time as people write them."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.audit.query.times import parse_time, rfc3339
from broker.core.errors import SetupError
from broker.helpers.process.spawn import run_tool
from tests.kit.needs import needs

ZONE = timezone(timedelta(hours=2))
NOW = datetime(2026, 11, 20, 9, 30, 15, 250_000, tzinfo=ZONE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-20T07:30:15.250000000Z"),
        ("today", "2026-11-19T22:00:00.000000000Z"),
        ("Yesterday", "2026-11-18T22:00:00.000000000Z"),
        ("2026-11-20", "2026-11-19T22:00:00.000000000Z"),
        ("2026-11-20 06:00", "2026-11-20T04:00:00.000000000Z"),
        ("2026-11-20  06:00:59", "2026-11-20T04:00:59.000000000Z"),
        ("2026-11-20T06:00:00Z", "2026-11-20T06:00:00.000000000Z"),
        ("6:00", "2026-11-20T04:00:00.000000000Z"),
        ("06:00:01", "2026-11-20T04:00:01.000000000Z"),
        ("@0", "1970-01-01T00:00:00.000000000Z"),
        ("@1790000000.5", "2026-09-21T14:13:20.500000000Z"),
        ("-15", "2026-11-20T07:30:00.250000000Z"),
        ("-15s", "2026-11-20T07:30:00.250000000Z"),
        ("-2h", "2026-11-20T05:30:15.250000000Z"),
        ("30 min ago", "2026-11-20T07:00:15.250000000Z"),
        ("-1w", "2026-11-13T07:30:15.250000000Z"),
        ("-2h30min", "2026-11-20T05:00:15.250000000Z"),
        ("1h 30 min 5s ago", "2026-11-20T06:00:10.250000000Z"),
        ("+1h", "2026-11-20T08:30:15.250000000Z"),
        ("5min left", "2026-11-20T07:35:15.250000000Z"),
        ("-1m", "2026-11-20T07:29:15.250000000Z"),
        ("-1M", "2026-10-20T21:00:15.250000000Z"),
        ("-1.5h", "2026-11-20T06:00:15.250000000Z"),
        ("-250ms", "2026-11-20T07:30:15.000000000Z"),
        ("-1ns", "2026-11-20T07:30:15.249999999Z"),
        ("tomorrow", "2026-11-20T22:00:00.000000000Z"),
        ("yesterday 05:00", "2026-11-19T03:00:00.000000000Z"),
        ("today UTC", "2026-11-20T00:00:00.000000000Z"),
        ("fri 2026-11-20", "2026-11-19T22:00:00.000000000Z"),
        ("Friday 2026-11-20 06:00 Z", "2026-11-20T06:00:00.000000000Z"),
        ("2026-11-20 06:00:00.123456789 UTC", "2026-11-20T06:00:00.123456789Z"),
        ("2026-11-20T06:00:00+05:30", "2026-11-20T00:30:00.000000000Z"),
        ("2026-07-01 06:00 Europe/Berlin", "2026-07-01T04:00:00.000000000Z"),
        ("2026-12-01 06:00 Europe/Berlin", "2026-12-01T05:00:00.000000000Z"),
        ("@1790000000.000000001", "2026-09-21T14:13:20.000000001Z"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert rfc3339(parse_time(text, NOW)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "-5 lightyears",
        "25:00",
        "2026-13-01",
        "@",
        "@nan",
        "@1e30",
        "sat 2026-11-20",
        "2026-11-20 06:00 Mars/Olympus",
        "ago",
        "-",
        "@-1",
        "-5 minutesago",
        "UTC",
        "26-11-20",
        "2026-11-20 24:00",
        "+999999999999y",
        "٣:٠٠",
    ],
)
def test_a_malformed_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SetupError, match=r"is not a valid time$") as caught:
        parse_time(text, NOW)
    assert "today" in caught.value.hint


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_refusal(text: str) -> None:
    with suppress(SetupError):
        assert isinstance(parse_time(text, NOW), int)


def test_days_across_a_change_of_clocks_are_those_of_the_calendar() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    now = datetime(2026, 10, 26, 12, tzinfo=berlin)  # an hour went back on the 25th
    assert rfc3339(parse_time("yesterday", now)) == "2026-10-24T22:00:00.000000000Z"
    assert rfc3339(parse_time("today", now)) == "2026-10-25T23:00:00.000000000Z"


def test_without_a_zone_the_system_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        now = datetime(2026, 11, 20, 9, 30)  # noqa: DTZ001
        # Asked in winter about summer: the zone's clock of then.
        assert parse_time("2026-07-01 06:00", now) == 1782878400 * 10**9
        assert parse_time("now", now) == 1795163400 * 10**9
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90d", 90 * 86400), ("1h 30min", 5400), ("5", 5), ("1y", 31_557_600)],
)
def test_spans(text: str, seconds: int) -> None:
    past = parse_time(f"{text} ago", NOW)
    assert parse_time("now", NOW) - past == seconds * 10**9


@pytest.mark.parametrize("text", ["", "soon", "-5d", "5 5lightyears", "d"])
def test_a_malformed_span_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match="is not a valid time"):
        parse_time(f"{text} ago", NOW)


AS_SYSTEMD = (
    "today", "yesterday", "tomorrow", "2026-11-20", "Fri 2026-11-20 06:00",
    "2026-11-20 06:00:59", "06:00", "@1790000000", "today UTC", "2026-11-20 UTC",
    "-1M", "-2h30min", "1w 2d ago", "-1y", "+3h30min", "55s500ms ago", "300ms20s 5day ago",
    "1y 12month ago", "2 minutes ago", "-5", "5h left",
)  # fmt: skip


@needs("systemd-analyze", "systemd")
async def test_systemd_reads_the_same() -> None:
    now = datetime.now().astimezone()
    said = await run_tool(["systemd-analyze", "timestamp", "--", *AS_SYSTEMD])
    found = re.findall(r"UNIX seconds: @([\d.]+)", said.decode())
    # It asks the clock itself, a moment after us.
    wrong = {
        text: theirs
        for text, theirs in zip(AS_SYSTEMD, found, strict=True)
        if abs(parse_time(text, now) / 1e9 - float(theirs)) >= 20
    }
    assert wrong == {}
