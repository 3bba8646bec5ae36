"""Names that pass between rooms."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.cli.sandboxes.ended_disposables import is_disposable_of
from broker.core.errors import RefusedError
from broker.core.names import (
    disposable_name,
    sandboxes_named,
    take_lease_id,
    take_new_name,
    take_sandbox_name,
)
from policy.names import ADMIN_NAMES
from policy.tools.calls import PERSON

_START = string.ascii_lowercase
_REST = _START + string.digits + "-"


@pytest.mark.parametrize("name", ["a", "demo", "web-1", "a-", "a" * 31])
def test_sandbox_names(name):
    """The shortest, the usual, the longest."""
    assert take_sandbox_name(name) == name


def test_a_new_sandbox_has_no_name_that_means_the_user():
    """Those of records that are shipped are names as others are."""
    for name in PERSON | {one for one in ADMIN_NAMES if one.isalnum()}:
        assert take_sandbox_name(name) == name, "one of an earlier version"
        with pytest.raises(RefusedError, match="the word means you, the user"):
            take_new_name(name)
    for name in ("viewer", "host", "demo"):
        assert take_new_name(name) == name
    with pytest.raises(RefusedError, match="not a sandbox name"):
        take_new_name("Demo")


@pytest.mark.parametrize(
    "untrusted",
    [
        pytest.param("", id="empty"),
        pytest.param("a" * 32, id="one too long"),
        pytest.param("Demo", id="capital"),
        pytest.param("1a", id="begins with a digit"),
        pytest.param("-a", id="begins with a dash"),
        pytest.param("a_b", id="underscore"),
        pytest.param("a b", id="space"),
        pytest.param("demo\n", id="line end"),
        pytest.param("\ndemo", id="line end before"),
        pytest.param("a\0", id="NUL"),
        pytest.param("../a", id="path"),
        pytest.param("a,b=c", id="QEMU option"),
        pytest.param("ａ", id="full-width letter"),
        pytest.param("a١", id="digit of another script"),
        pytest.param(b"demo", id="bytes"),
        pytest.param(7, id="number"),
        pytest.param(None, id="nothing"),
        pytest.param(["demo"], id="list"),
    ],
)
def test_no_sandbox_names(untrusted):
    """Refused with what a name is."""
    with pytest.raises(RefusedError) as caught:
        take_sandbox_name(untrusted)
    assert "is not a sandbox name" in str(caught.value)
    assert "1 to 31" in caught.value.hint


@given(st.text() | st.from_regex(r"[a-z][a-z0-9-]{0,33}\n?"))
def test_a_name_is_plain(untrusted):
    """An accepted name has plain characters only; a refused one is shown escaped."""
    plain = untrusted[:1] in {*_START} and set(untrusted) <= set(_REST)
    if plain and len(untrusted) <= 31:
        assert take_sandbox_name(untrusted) == untrusted
        return
    with pytest.raises(RefusedError) as caught:
        take_sandbox_name(untrusted)
    assert all(char.isprintable() for char in str(caught.value))


def test_lease_ids():
    """Sixteen lower-case hex digits."""
    assert take_lease_id("0123456789abcdef") == "0123456789abcdef"


@pytest.mark.parametrize(
    "untrusted",
    ["", "0" * 15, "0" * 17, "0123456789ABCDEF", "0" * 15 + "g", "0" * 16 + "\n", 1 << 60, b"0" * 16],
)  # fmt: skip
def test_no_lease_ids(untrusted):
    """Refused; the id is not repeated, because it may be a secret."""
    with pytest.raises(RefusedError) as caught:
        take_lease_id(untrusted)
    assert str(caught.value) == "invalid lease ID"


@given(
    record=st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True),
    number=st.integers(1000, 9999),
)
def test_names_of_disposables_are_known_again(record, number):
    name = disposable_name(record, number)
    assert take_sandbox_name(name) == name
    assert is_disposable_of(name, record)
    assert not is_disposable_of(name, "x" + record[:20])
    assert not is_disposable_of(record, record)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("demo", ["demo-1", "demo-2"]),
        ("demo-1", ["demo-1"]),
        ("work", ["work"]),
        ("dem", []),
        # A sandbox of exactly that name comes before the record's.
        ("both", ["both"]),
    ],
)
def test_what_a_name_means(name, found):
    pairs = [
        ("demo-1", "demo"),
        ("demo-2", "demo"),
        ("work", "work"),
        ("both", "other"),
        ("both-1", "both"),
    ]
    assert sandboxes_named(name, pairs) == found
