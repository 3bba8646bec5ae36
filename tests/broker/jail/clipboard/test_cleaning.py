"""Cleaning of text: removed and kept characters."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import PeerError
from broker.jail.clipboard.cleaning import clean


def clean_text(data):
    """All steps of cleaning a text."""
    steps = clean("text/plain", data)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain, ünïcode\tand\nlines", "plain, ünïcode\tand\nlines"),
        ("a\r\nb\rc\u2028d\u2029e\x85f", "a\nb\nc\nd\ne\nf"),
        ("\x1b[201~rm -rf\x00\x07\x7f", "[201~rm -rf"),
        ("a\u202eb\u2066c\u200fd\ufeffe", "abcde"),
        ("x\u200by\U000e0041z", "xyz"),
        ("x\u034fy\u3164z\u17b4", "xyz"),
        ("\u2764\ufe0f \u2813\u2800\u2811", "\u2764\ufe0f \u2813\u2800\u2811"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("", ""),
    ],
)
def test_cleaned(text, cleaned):
    assert clean_text(text.encode()).decode() == cleaned


@pytest.mark.parametrize("data", [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_text_that_is_not_utf8_is_refused_whole(data):
    with pytest.raises(PeerError):
        clean_text(data)


@given(st.text())
def test_no_hidden_character_stays_and_twice_is_once(text):
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return
    cleaned = clean_text(data)
    assert clean_text(cleaned) == cleaned
    for char in cleaned.decode():
        kept = char in "\t\n\u200c\u200d"
        assert kept or unicodedata.category(char) not in {"Cc", "Cf", "Cn", "Co"}
