"""Addresses: one reading of each, or none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import RefusedError
from broker.core.limits import transfer as limits
from broker.core.transfer.urls import DEFAULT_SCHEMES, NEVER, take_url

CORPUS = Path(__file__).parents[3] / "corpus/transfer/urls.jsonl"
ROWS = [json.loads(line) for line in CORPUS.read_text().splitlines()]
GOOD = [row for row in ROWS if "canonical" in row]
BAD = [row for row in ROWS if "canonical" not in row]
assert len(GOOD) > 20
assert len(BAD) > 150


@pytest.mark.parametrize("row", GOOD, ids=lambda row: ascii(row["text"]))
def test_ordinary_addresses_have_one_canonical_form(row):
    url = take_url(row["text"])
    assert (url.canonical, url.host) == (row["canonical"], row["host"])
    assert take_url(url.canonical) == url


@pytest.mark.parametrize("row", BAD, ids=lambda row: ascii(row["text"])[:60])
def test_tricks_are_refused_with_the_reason(row):
    with pytest.raises(RefusedError) as refused:
        take_url(row["text"])
    assert str(refused.value) == row["reason"]
    assert row["reason"].isascii()


def test_the_longest_address_and_one_more():
    start = "https://example.org/"
    longest = start + "a" * (limits.URL_CHARS - len(start))
    assert take_url(longest).canonical == longest
    with pytest.raises(RefusedError, match="longer"):
        take_url(longest + "a")
    # Before anything else is looked at.
    with pytest.raises(RefusedError, match="longer"):
        take_url("\0" * (limits.URL_CHARS + 1))
    # Grown by the encoding, so measured again.
    with pytest.raises(RefusedError, match="encoded address is longer than"):
        take_url(start + "ä" * (limits.URL_CHARS // 4))


def test_a_rule_can_open_other_schemes_but_never_those_that_run_code():
    assert take_url("ftp://example.org/x", {"ftp"}).canonical == "ftp://example.org/x"
    assert take_url("tel:+49-1", {"tel"}).canonical == "tel:+49-1"
    assert take_url("xmpp:a@b.example", None).scheme == "xmpp"
    for scheme in NEVER | {"ms-word"}:
        with pytest.raises(RefusedError, match="never"):
            take_url(f"{scheme}:x", {scheme})
    for rest in ("", "/etc/passwd", "-x", "a%0Ab"):
        with pytest.raises(RefusedError):
            take_url(f"tel:{rest}", {"tel"})


def test_an_international_host_is_shown_both_ways():
    url = take_url("https://bücher.example:8443/")
    assert url.shown == "https://xn--bcher-kva.example:8443/ (bücher.example)"
    assert (url.port, url.shown_host) == (8443, "bücher.example")
    assert take_url("https://example.org/").shown == "https://example.org/"


SAFE = re.compile(r"[!-~]+")
PIECES = st.sampled_from(
    [
        "https:",
        "http:",
        "mailto:",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "?",
        "#",
        "%",
        "%2e",
        "%00",
        "..",
        ".",
        "example",
        "org",
        "127",
        "0x7f",
        "[",
        "]",
        "::1",
        "xn--",
        "bücher",
        "а",
        "\u202e",
        "\t",
        " ",
        "-",
        "a",
        "80",
        "&",
        "=",
        "subject",
        ",",
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=14).map("".join)))
def test_what_passes_is_ascii_and_read_again_as_the_same(text):
    try:
        url = take_url(text)
    except RefusedError:
        return
    assert SAFE.fullmatch(url.canonical)
    assert not set(url.canonical) & set('\\"<>`{}|^')
    assert url.scheme in DEFAULT_SCHEMES
    assert url.canonical.startswith(url.scheme + ":")
    assert url.host == url.host.lower()
    assert "@" not in url.canonical.split("/")[2:3] or url.scheme == "mailto"
    assert take_url(url.canonical) == url
