"""Names that look alike have the same look, others do not."""

from __future__ import annotations

import pytest

from policy.tools.linting.confusables import look, scripts


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("work", "w0rk"),
        ("work", "Wоrk"),
        ("bank", "ｂａｎｋ"),
        ("mail-1", "mai1l"),
        ("modern", "rnodern"),
        ("web", "vveb"),
        ("a-b", "a_b"),
        ("cafe", "café"),
        ("dash", "clash"),
    ],
)
def test_alike(one, other):
    """Digits for letters, other scripts, marks, separators, letters that touch."""
    assert look(one) == look(other)


@pytest.mark.parametrize(
    ("one", "other"), [("work", "walk"), ("bank", "banks"), ("web", "mail")]
)
def test_unlike(one, other):
    """What a reader tells apart."""
    assert look(one) != look(other)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Work 2", ["LATIN"]),
        ("Wоrk", ["CYRILLIC", "LATIN"]),
        ("仕事のメール", ["CJK"]),
        ("работа", ["CYRILLIC"]),
        ("Größe", ["LATIN"]),
        ("12-3", []),
    ],
)
def test_scripts(name, found):
    """Only letters count, and letters without a space are one word."""
    assert scripts(name) == found
