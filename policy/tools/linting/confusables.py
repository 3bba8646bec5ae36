"""Names that a reader takes for another one."""

from __future__ import annotations

import unicodedata

# Letters of other scripts that look like Latin ones in most fonts; what
# compatibility forms (full width, mathematical) look like, NFKD knows.
_OTHERS = dict(
    zip(
        "аеорсухіјѕһԁԛԝӏАВЕКМНОРСТУХІЈЅαονρτυικηωΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɑɡℓ",
        "aeopcyxijshdqwlabekmhopctyxijsaovptuiknwabezhikmnoptyxiagl",
        strict=True,
    )
)
_LOOKS = str.maketrans(
    {"0": "o", "1": "l", "i": "l", "5": "s", "-": "", "_": "", ".": "", " ": ""}
)


def look(name: str) -> str:
    """Return a key that is equal for names that look alike."""
    plain = "".join(
        _OTHERS.get(char, char)
        for char in unicodedata.normalize("NFKD", name)
        if not unicodedata.combining(char)
    )
    folded = plain.lower().translate(_LOOKS)
    return folded.replace("rn", "m").replace("vv", "w").replace("cl", "d")


def scripts(name: str) -> list[str]:
    """Return the scripts of a name's letters, as Unicode's names begin."""
    found = {
        unicodedata.name(char, "?").split()[0]
        for char in name
        if char.isalpha() and not unicodedata.combining(char)
    }
    # Written together in one word by those who read them.
    together = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL"}
    if found & together:
        found = found - together | {"CJK"}
    return sorted(found)
