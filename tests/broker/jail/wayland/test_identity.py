"""Titles and application ids: whose, and without anything hidden."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import RefusedError
from broker.core.limits import wayland as limits
from broker.core.streams.wayland_rules import WindowRules, take_color
from broker.jail.wayland import identity
from tests.broker.core.test_escape import HIDDEN


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("Editor", "[work] Editor"),
        ("", "[work]"),
        ("[vault] Passwords", "[work] [vault] Passwords"),
        ("\u202egnp.exe", "[work] gnp.exe"),
        ("a\u2066b\u2069c", "[work] abc"),
        ("a\u200bb\u00adc\ufeffd", "[work] abcd"),
        ("line\nnext\tcolumn\x1b[31m", "[work] line next column[31m"),
        ("\ue000private", "[work] private"),
        ("\u3164\u2800blank", "[work] blank"),
        ("e" + "\u0301" * 40, "[work] e\u0301\u0301"),
        ("   wide\u3000\u2003space  ", "[work] wide space"),
    ],
)
def test_titles(told, shown):
    assert identity.title("work", told.encode()).decode() == shown


@pytest.mark.parametrize(
    ("length", "cut"),
    [(limits.WAYLAND_TITLE_CHARS, False), (limits.WAYLAND_TITLE_CHARS + 1, True)],
)
def test_a_title_has_a_longest_form(length, cut):
    shown = identity.title("work", b"x" * length).decode()
    assert len(shown) == len("[work] ") + limits.WAYLAND_TITLE_CHARS
    assert shown.endswith("…") == cut


START, END = "\u2068", "\u2069"


def test_a_right_to_left_title_does_not_turn_its_prefix_around():
    """With a prefix of digits alone the whole line would run from the right."""
    told = "\u05e9\u05dc\u05d5\u05dd"
    shown = identity.title("7", told.encode()).decode()
    assert shown == f"[7] {START}{told}{END}"
    assert START not in identity.title("7", b"left to right").decode()


@given(st.binary(max_size=600))
def test_no_title_hides_anything(told):
    shown = identity.title("work", told).decode()
    assert shown.startswith("[work]")
    if shown.endswith(END):  # ours, around text from right to left
        shown = shown.replace(START, "", 1).removesuffix(END)
    assert not {unicodedata.category(c) for c in shown} & HIDDEN


@given(st.binary(max_size=300))
def test_an_application_id_is_plain(told):
    shown = identity.app_id("work", told).decode()
    assert shown.startswith("vitrail.work")
    assert shown.isascii()
    assert not set(shown) & set(" ()|*?[]/\\\"'")


def test_another_sandboxs_prefix_cannot_be_claimed():
    assert (
        identity.app_id("work", b"vitrail.vault.keys")
        == b"vitrail.work.vitrail.vault.keys"
    )


def test_colours_and_widths_are_checked():
    assert take_color("#0aF0ff") == 0x0AF0FF
    for bad in ("red", "#12345", "0aF0ff", "#1234567"):
        with pytest.raises(RefusedError):
            take_color(bad)
    for border in (0, 65):
        with pytest.raises(RefusedError):
            WindowRules("work", border=border)
    with pytest.raises(RefusedError, match="never"):
        WindowRules("work", allow=frozenset({"ext_session_lock_manager_v1"}))
    with pytest.raises(RefusedError, match="not known"):
        WindowRules("work", allow=frozenset({"no_such_thing"}))
