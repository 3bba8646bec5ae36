"""Labels of host names that read as others (Unicode Technical Standard 39)."""

from __future__ import annotations

from types import MappingProxyType

from broker.core.transfer.scripts import COMMON, script

# Scripts that are written together (UTS 39, 5.2, "highly restrictive").
_TOGETHER = (
    frozenset({"Latin", "Han", "Hiragana", "Katakana"}),
    frozenset({"Latin", "Han", "Bopomofo"}),
    frozenset({"Latin", "Han", "Hangul"}),
)
# Small letters that most fonts draw as Latin ones (host names have no capital
# letters), and the ASCII top-level domains where words of that script are usual.
# Without the second part, ordinary Greek words could have no name below .gr.
_LIKE_LATIN = MappingProxyType(
    {
        "Cyrillic": (
            frozenset("аеорсухіјѕһԁԛԝӏѵҽьгпѡ"),
            frozenset({"bg", "by", "kz", "mk", "mn", "rs", "ru", "su", "ua", "uz"}),
        ),
        "Greek": (frozenset("αγηικνορτυχω"), frozenset({"gr", "cy", "eu"})),
        "Armenian": (frozenset("օհսոցզքյ"), frozenset({"am"})),
    }
)


def mixed_scripts(label: str) -> bool:
    """Return whether a label has scripts that are not written together."""
    found = {script(char) for char in label} - COMMON
    return len(found) > 1 and not any(found <= group for group in _TOGETHER)


def imitates_latin(label: str, top_level: str) -> bool:
    """Return whether all letters of a label look like Latin ones and none is.

    ``top_level``: the last label of the name, which says what its readers expect.
    """
    letters = [char for char in label if char.isalpha()]
    if not letters or not top_level.isascii():
        return False
    like, usual = _LIKE_LATIN.get(script(letters[0]), (frozenset(), frozenset()))
    return top_level not in usual and all(char in like for char in letters)
