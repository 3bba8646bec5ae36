"""A program on a terminal drives nothing but its screen."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.run import terminal_filter
from broker.cli.run.terminal_filter import RESET, TerminalFilter


def shown(*pieces: bytes) -> bytes:
    made = TerminalFilter()
    return b"".join(made.feed(piece) for piece in pieces)


HOSTILE = {
    "title": b"\x1b]0;rm -rf\x07",
    "title by ST": b"\x1b]2;rm -rf\x1b\\",
    "clipboard": b"\x1b]52;c;ZXZpbA==\x07",
    "hyperlink": b"\x1b]8;;file:///etc\x1b\\",
    "notification": b"\x1b]9;you have mail\x07\x1b]777;notify;a;b\x07",
    "kitty graphics": b"\x1b_Gf=100;AAAA\x1b\\",
    "sixel": b"\x1bPq#0;2;0;0;0\x1b\\",
    "setting request": b"\x1bP$qm\x1b\\",
    "device attributes": b"\x1b[c\x1b[0c\x1b[>c\x1b[=c\x1bZ",
    "status report": b"\x1b[5n\x1b[6n\x1b[?6n",
    "title report": b"\x1b[21t\x1b[8;1;1t\x1b[22t",
    "mode report": b"\x1b[?2004$p\x1b[4$p",
    "window checksum": b"\x1b[1;1;1;1;1;1*y",
    "printing": b"\x1b[5i\x1b[4i",
    "reset": b"\x1bc\x1b[!p",
    "keyboard modes": b"\x1b[>4;2m\x1b[>1u\x1b[=1u",
    "answerback": b"\x05",
    "unknown private mode": b"\x1b[?1234h\x1b[?1049;9999h",
    "C1 as UTF-8": "\x9d0;evil\x9c\x9b6n\x90$qm\x9c".encode(),
    "C1 as bytes": b"\x9b6n",
    "macros": b"\x1bP0;0;0!zhello\x1b\\\x1b[0*z",
    "too long": b"\x1b[" + b"1;" * 400 + b"m",
    "endless count": b"\x1b[999999999b\x1b[1;100000L\x1b[38:2:999999m",
    "hidden direction": "\u202etxt.exe\u2066".encode(),
}


@pytest.mark.parametrize("sequence", HOSTILE.values(), ids=HOSTILE.keys())
def test_it_does_not_pass(sequence):
    out = shown(b"a", sequence, b"b")
    assert out.startswith(b"a")
    assert out.endswith(b"b")
    assert b"\x1b" not in out
    assert b"\x05" not in out
    assert not re.search("[\x80-\x9f\u202e\u2066]", out.decode())


@pytest.mark.parametrize(
    "sequence", ["\u015b6n", "\u011d0;evil\u011c", "\u0150$qm\u011c"]
)
def test_it_does_not_pass_by_another_encoding(sequence):
    """In UTF-8 these end in the bytes of CSI, OSC and DCS, as 8-bit terminals have it."""
    out = TerminalFilter("iso8859-1").feed(sequence.encode())
    assert not re.search(b"[\x80-\x9f]", out)
    assert TerminalFilter().feed(sequence.encode()) == sequence.encode()


@pytest.mark.parametrize(
    "sequence",
    [
        b"\x1b[1;31mred\x1b[0m",
        b"\x1b[38;2;1;2;3mtrue\x1b[38:2::1:2:3mcolour\x1b[m",
        b"\x1b[2J\x1b[H\x1b[10;20H\x1b[K\x1b[?J",
        b"\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[?1;7h",
        b"\x1b[3;10r\x1b[5A\x1b[2L\x1b[4P\x1bM\x1b7\x1b8",
        b"\x1b(0lqk\x1b(B\x0e\x0f\t\r\n\b\a",
        "größer 日本語 🎉".encode(),
    ],
)
def test_what_full_screen_programs_need_passes(sequence):
    assert shown(sequence) == sequence


def test_a_string_that_never_ends_costs_no_memory():
    made = TerminalFilter()
    for _ in range(200):
        assert made.feed(b"\x1b]52;c;" + b"A" * 65536) == b""
    assert len(made._kept) <= 200


def test_an_escape_inside_a_string_begins_a_sequence():
    assert shown(b"\x1b]0;x\x1b[31mred") == b"\x1b[31mred"
    assert shown(b"\x1b]0;x\x1b]52;c;y\x07z") == b"z"


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=20), st.sampled_from([*HOSTILE.values(), b"\x1b", b"\x1b["])
    ),
    max_size=8,
)


@given(pieces=PIECES, at=st.integers(0, 200))
def test_any_split_gives_the_same_and_only_listed_sequences(pieces, at):
    whole = b"".join(pieces)
    out = shown(whole)
    assert shown(whole[:at], whole[at:]) == out
    assert b"".join(shown(whole[:0], whole).splitlines(keepends=True)) == out
    rest = re.sub(
        r"\x1b(?:\[\??[0-9;:]*[@-Z`abdefghlmrsu]|[78=>DEHM]|[()*+][0AB])",
        "",
        out.decode(),
    )
    assert "\x1b" not in rest
    # A terminal that has shown it answers nothing and is changed in nothing else.
    assert shown(out) == out


def test_what_undoes_it_passes_itself():
    assert shown(RESET) == RESET


_ON = {7, 25}
"""Modes that a terminal begins with."""
_OTHERS = {12, 47, 1047, 1048}
"""The blinking of the cursor, and what 1049 includes."""


def test_no_mode_outlives_the_program():
    """Line feed mode (20) types a second answer with each Return, for one."""
    private = {*terminal_filter._MODES} - _OTHERS
    modes = [(f"?{n}", n in _ON) for n in sorted(private)]
    modes += [(str(n), False) for n in sorted(terminal_filter._PLAIN_MODES)]
    wanted = [f"\x1b[{mode}{'h' if on else 'l'}" for mode, on in modes]
    reset = RESET.decode()
    assert [sequence for sequence in wanted if sequence not in reset] == []
