"""Points in time as people write them."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.audit.times import parse_time, rfc3339
from broker.core.errors import SetupError

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
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert rfc3339(parse_time(text, NOW)) == expected


@pytest.mark.parametrize(
    "text", ["", "soon", "-5 lightyears", "25:00", "2026-13-01", "@", "@nan", "@1e30"]
)
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SetupError, match="not a time") as caught:
        parse_time(text, NOW)
    assert "today" in caught.value.hint


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_a_refusal(text: str) -> None:
    with suppress(SetupError):
        assert isinstance(parse_time(text, NOW), int)
