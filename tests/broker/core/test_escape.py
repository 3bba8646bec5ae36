"""Text from a sandbox, made fit to be shown."""

from __future__ import annotations

import html
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.core.escape import escape_markup, printable
from broker.viewer.notifications.desktop_server import unescape_markup

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of characters that show nothing."""


@pytest.mark.parametrize(
    ("untrusted", "shown"),
    [
        pytest.param("Größe 数 🙂", "Größe 数 🙂", id="any script"),
        pytest.param("", "", id="nothing"),
        pytest.param("a\x1b[2Jb", "a\\x1b[2Jb", id="terminal sequence"),
        pytest.param("a\x9b2Jb", "a\\x9b2Jb", id="one-character CSI"),
        pytest.param("a\nb\rc\td\0", "a\\x0ab\\x0dc\\x09d\\x00", id="line ends"),
        pytest.param("\u202egnp.exe", "\\u202egnp.exe", id="right to left"),
        pytest.param("a\u200bb\ufeff", "a\\u200bb\\ufeff", id="zero width"),
        *(
            pytest.param(f"a{char}b", f"a\\u{ord(char):04x}b", id=f"U+{ord(char):04X}")
            for char in "\u034f\u115f\u1160\u17b4\u17b5\u180b\u2800\u3164\ufe0f\uffa0"
        ),
        pytest.param("a\U000e0100", "a\\U000e0100", id="variation selector"),
        pytest.param("a\u2028b\u2029", "a\\u2028b\\u2029", id="separators"),
        pytest.param("\ud800", "\\ud800", id="lone surrogate"),
        pytest.param("\ue000\U000f0000", "\\ue000\\U000f0000", id="private use"),
        pytest.param("\U000e0041", "\\U000e0041", id="tags"),
        pytest.param("a\\x1b", "a\\\\x1b", id="imitated escape"),
        pytest.param(b"caf\xc3\xa9\x07", "café\\x07", id="bytes"),
        pytest.param(b"a\xffb", "a\\\\xffb", id="bytes that are no UTF-8"),
    ],
)
def test_shown(untrusted, shown):
    """Hidden characters in hex, the rest as it is."""
    assert printable(untrusted) == shown


@given(st.text() | st.binary(), st.integers(1, 60))
@example("\\" * 60, 59)
@example("🙂".encode() * 11, 10)
def test_never_hidden_never_long(untrusted, limit):
    """Whatever comes in: printable characters, at most ``limit`` of them."""
    shown = printable(untrusted, limit)
    assert len(shown) <= limit
    for char in shown:
        assert unicodedata.category(char) not in HIDDEN


@pytest.mark.parametrize(
    ("untrusted", "limit", "shown"),
    [
        ("abcd", 4, "abcd"),
        ("abcde", 4, "abc…"),
        (b"abcd", 4, "abcd"),
        (b"abcde", 4, "abc…"),
        ("🙂🙂".encode(), 2, "🙂🙂"),
        ("🙂🙂🙂".encode(), 2, "🙂…"),
        ("ab\x1b", 6, "ab\\x1b"),
        ("abc\x1b", 6, "abc…"),
        ("abc\x1bd", 7, "abc…"),
    ],
)
def test_at_the_limit_and_beyond(untrusted, limit, shown):
    """N characters stay whole; beyond, an escape is never cut in two."""
    assert printable(untrusted, limit) == shown


@given(st.text(max_size=30))
def test_two_texts_never_look_the_same(text):
    """Escaping can be undone, so a log line is evidence."""
    shown = printable(text, 10_000)
    undone = shown.encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert undone == text


@given(st.text("&<>;altgmp \"'") | st.text())
def test_markup_is_what_html_makes_of_a_text_and_comes_back(text):
    assert escape_markup(text) == html.escape(text, quote=False)
    assert unescape_markup(escape_markup(text)) == text
