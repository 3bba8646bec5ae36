"""File names: what passes is safe, whatever was sent."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import RefusedError
from broker.core.limits import transfer as limits
from broker.core.transfer.file_names import display_name, take_file_name

GOOD = [
    "report.pdf",
    "a b (1).txt",
    "Ärger-Straße_2.ods",
    "Иван Ω.doc",
    "日本語.txt",
    "한국어",
    "ひらがな",
    "ㄅㄆ",
    "5€ ≤ 7.csv",
    ".gitignore",
    "~",
    "console.log",
    "nulls",
    "com10",
    "$(id); x &.sh",
    "חשבונית 2026.pdf",
    "سلام ١٢",
    "नमस्ते",
    "ไทย",
    "\u13a0",
    "e\u0301",
    "a\u20dd",
    "☃ 😀",
    "a^\u02c6\u00a8",
    "Screenshot 10.00\u202fAM.png",
    "全角\u3000スペース",
    "x" * limits.FILE_NAME_BYTES,
]
BAD = {
    "": "empty",
    "x" * (limits.FILE_NAME_BYTES + 1): "longer",
    "é" * 128: "longer",
    ".": "'.'",
    "..": "'..'",
    "...": "'..'",
    "..x": "'..'",
    "-rf": "option",
    "a/b": "separator",
    "/a": "separator",
    "a\\b": "separator",
    "a\0": "control",
    "a\n": "control",
    "a\x7f": "control",
    "a\x85": "control",
    "a\u202etxt.exe": "format",
    "a\u2066b": "format",
    "a\u200d": "format",
    "a\ufeff": "format",
    "a\U000e0041": "format",
    "a\ue000": "private",
    "a\U000f0000": "private",
    "a\u0378": "not assigned",
    "a\ufffe": "not assigned",
    "a\u2028b": "line separator",
    "a\u2029b": "paragraph separator",
    "\u3164": "blank",
    "\u2800": "blank",
    "\u0301a": "begins with a combining mark",
    "a" + "\u0336" * 100 + ".pdf": "more than 8 marks",
    "\u3000a": "space",
    "a\u00a0": "space",
    " a": "space",
    "a ": "space",
    "CON": "Windows",
    "con.txt": "Windows",
    "Lpt1.tar.gz": "Windows",
    "nul .txt": "Windows",
    "COM¹": "Windows",
}


@pytest.mark.parametrize("name", GOOD)
def test_ordinary_names_pass_unchanged(name):
    assert take_file_name(name.encode()) == name
    if name.isprintable():
        assert display_name(name.encode()) == name


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_hostile_names_are_refused_with_the_reason(name):
    with pytest.raises(RefusedError, match=BAD[name]):
        take_file_name(name.encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"a\xc3",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe0\x80\x80",
    ],
)
def test_bytes_that_are_not_utf8_are_refused(raw):
    with pytest.raises(RefusedError, match="UTF-8"):
        take_file_name(raw)
    assert "\ufffd" not in display_name(raw)


BIDI_CONTROLS = {"LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
ALPHABETS = st.one_of(
    st.characters(),
    st.characters(codec="ascii"),
    st.sampled_from("./\\-\0\n\u202e\u0301 ."),
)


@given(st.text(ALPHABETS, max_size=40))
def test_what_passes_has_no_character_that_changes_how_others_are_read(text):
    raw = text.encode("utf-8", "surrogatepass")
    try:
        name = take_file_name(raw)
    except RefusedError:
        return
    assert name.encode() == raw
    assert name not in {"", ".", ".."}
    assert not set(name) & set("/\\\0")
    for char in name:
        assert (
            unicodedata.category(char)[0] in "LMNPS"
            or unicodedata.category(char) == "Zs"
        )
        assert unicodedata.bidirectional(char) not in BIDI_CONTROLS


@given(st.binary(max_size=300))
def test_any_bytes_have_a_display_form_that_is_printable(raw):
    shown = display_name(raw)
    assert shown
    assert shown.isprintable()
    assert "/" not in shown
