"""Another parser (Ada, of the WHATWG URL standard) reads what passes as we do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.errors import RefusedError
from broker.core.transfer.urls import take_url

ada = pytest.importorskip(
    "ada_url", reason="ada-url (WHATWG's parser) is not installed"
)

CORPUS = Path(__file__).parents[3] / "corpus/transfer/urls.jsonl"
PARTS = st.sampled_from(
    [
        "//",
        "/",
        "\\",
        "@",
        ":",
        "?",
        "#",
        "%2e%2E",
        "%41",
        "..",
        ".",
        "example",
        "ORG",
        "127.0.0.1",
        "0x7f",
        "[::1]",
        "[2001:DB8::1]",
        "xn--bcher-kva",
        "bücher",
        "ß",
        "例え",
        "ıİ",
        "K",
        "-",
        "_",
        "a",
        "443",
        "80",
        "&",
        "=",
        "+",
        "'",
        "*",
        "$",
        ";",
        "~",
        "|",
        "{",
        "[",
        "ä",
    ]
)


def same(text: str) -> bool:
    """Whether both read the address as the same one; true where we refuse it."""
    try:
        url = take_url(text)
    except RefusedError:
        return True
    if url.scheme == "mailto":
        return True
    theirs = ada.URL(url.canonical)
    from_text = ada.URL(text)
    host = theirs.hostname.strip("[]")
    assert theirs.href == url.canonical
    assert host == url.host
    assert from_text.hostname.removesuffix(".").strip("[]") == url.host
    assert (theirs.username, theirs.password) == ("", "")
    return theirs.protocol == f"{url.scheme}:"


@pytest.mark.parametrize(
    "row", CORPUS.read_text().splitlines(), ids=lambda row: row[:60]
)
def test_the_corpus(row):
    assert same(json.loads(row)["text"])


@given(
    st.lists(PARTS, min_size=1, max_size=12).map(
        lambda parts: "https://" + "".join(parts)
    )
)
def test_generated_addresses(text):
    assert same(text)
