"""Which types cross, under which names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.clipboard.types import (
    DEFAULT_PATTERNS,
    NEVER,
    TEXT_NAMES,
    Pick,
    choose,
    fits,
    kind_of,
    names_files,
    names_of,
)
from broker.core.errors import PeerError
from broker.core.limits import clipboard as clipboard_limits
from broker.core.limits import wayland as limits


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("text/plain", "text/plain"),
        ("text/plain;charset=utf-8", "text/plain"),
        ("text/plain; charset=UTF-8", "text/plain"),
        ("UTF8_STRING", "text/plain"),
        ("STRING", "text/plain"),
        ("image/PNG", "image/png"),
        ("text/html", "text/html"),
        # Another encoding is not understood, so it would not be cleaned.
        ("text/plain;charset=utf-16", None),
        ("text/plain;charset=utf-8;x=1", None),
        ("TARGETS", None),
        ("x-kde-passwordManagerHint", None),
        ("", None),
        ("/", None),
        ("image/", None),
        ("image/*", None),
        ("*/*", None),
        ("image/png\n", None),
        ("image/pñg", None),
        ("\u0130mage/png", None),
        ("a/b/c", None),
        ("text/uri-list", None),
        ("TEXT/URI-LIST", None),
        # Its file manager would act on a sandbox's paths.
        ("application/x-kde4-urilist", None),
        ("application/x-moz-file", None),
        ("application/x-kde-ark-dndextract-service", None),
    ],
)
def test_kinds(name, kind):
    assert kind_of(name) == kind


def test_names_of_files_never_cross():
    assert not any(kind_of(name) for name in NEVER)
    assert choose(sorted(NEVER), ["*/*"]) == ()


@pytest.mark.parametrize(
    "name", [*sorted(NEVER), "Text/X-Moz-URL", "text/ uri-list", "text/uri-list; a=b"]
)
def test_a_files_name_is_seen_beside_other_types_however_it_is_spelt(name):
    assert names_files(["text/plain", name])


def test_text_and_pictures_name_no_files():
    assert not names_files([*TEXT_NAMES, "image/png", "text/html", ""])


def test_the_surest_name_for_text_is_asked_for_and_all_are_offered():
    names = ["STRING", "text/plain", "TEXT", "text/plain;charset=utf-8", "image/png"]
    assert choose(names, DEFAULT_PATTERNS) == (
        Pick("text/plain;charset=utf-8", "text/plain"),
        Pick("image/png", "image/png"),
    )
    assert names_of("text/plain") == TEXT_NAMES
    assert names_of("image/png") == ("image/png",)


def test_text_comes_first_and_rich_text_only_by_rule():
    names = ["text/html", "image/png", "text/plain"]
    assert [p.kind for p in choose(names, DEFAULT_PATTERNS)] == [
        "text/plain",
        "image/png",
    ]
    assert [p.kind for p in choose(names, ["text/*"])] == ["text/plain", "text/html"]
    assert choose(names, []) == ()


def test_the_source_is_asked_in_its_own_spelling():
    assert choose(["Image/PNG"], ["image/*"]) == (Pick("Image/PNG", "image/png"),)


def test_as_many_types_as_a_client_may_offer_and_not_one_more():
    names = [f"image/x{n}" for n in range(limits.WAYLAND_MIMES - 1)] + ["text/plain"]
    assert choose(names, ["text/*"])[0].kind == "text/plain"
    with pytest.raises(PeerError, match="more types"):
        choose([*names, "text/html"], ["text/*"])


def test_types_as_long_as_a_client_may_offer_and_not_longer():
    longest = "x" * limits.WAYLAND_MIME_BYTES
    assert choose([longest], ["*/*"]) == ()
    with pytest.raises(PeerError, match="too long"):
        choose([longest + "x"], ["*/*"])


def test_only_so_many_kinds_are_read():
    names = [f"image/x{n}" for n in range(clipboard_limits.CLIPBOARD_KINDS + 1)]
    assert len(choose(names[:-1], ["*/*"])) == clipboard_limits.CLIPBOARD_KINDS
    assert len(choose(names, ["*/*"])) == clipboard_limits.CLIPBOARD_KINDS


@given(st.lists(st.text(max_size=30), max_size=20))
def test_the_chosen_type_was_offered_and_fits(names):
    picks = choose(names, DEFAULT_PATTERNS)
    for pick in picks:
        assert pick.name in names
        assert kind_of(pick.name) == pick.kind
        assert fits(pick.kind, DEFAULT_PATTERNS)
    assert len({pick.kind for pick in picks}) == len(picks)
