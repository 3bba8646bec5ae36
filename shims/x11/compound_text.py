"""Compound text, the encoding of titles before UTF-8 (X Consortium, CTEXT 1.1).

Escape sequences (ISO 2022) choose a set of characters for the bytes below 128 (GL) and
one for those from 160 on (GR); at the beginning they are ASCII and Latin-1.
"""

from __future__ import annotations

import re

_MOST_BYTES = 4096
_ESCAPE = re.compile(
    # One set, two bytes a character, an encoding of its own with a length, UTF-8 until
    # its end, a direction: what else begins with an escape is left out.
    rb"\x1b([-()])([\x40-\x7e])|\x1b\$([()]?)([\x40-\x7e])|\x1b%/[\x30-\x34](..)"
    rb"|\x1b%G(.*?)(?:\x1b%@|\Z)|\x9b[\x30-\x3f]*[\x40-\x7e]|\x1b[\x20-\x2f]*[\x30-\x7e]?",
    re.DOTALL,
)
_LATIN = {
    "A": 1, "B": 2, "C": 3, "D": 4, "L": 5, "G": 6, "F": 7, "H": 8, "M": 9, "V": 10,
    "Y": 13, "_": 14, "b": 15, "f": 16,
}  # fmt: skip
"""Parts of ISO 8859 by the last byte of their escape sequence, for GR."""
_DOUBLE = {"A": "gb2312", "B": "euc_jp", "C": "euc_kr", "D": "euc_jp"}
"""Sets of two bytes, as Python's encodings have them in GR."""
_OWN = {
    "koi8-r": "koi8_r", "koi8-u": "koi8_u", "big5-0": "big5", "gbk-0": "gbk",
    "gb18030-0": "gb18030", "iso8859-15": "iso8859_15", "microsoft-cp1251": "cp1251",
    "microsoft-cp1256": "cp1256", "utf-8": "utf_8", "big5hkscs-0": "big5hkscs",
}  # fmt: skip
"""Encodings that libX11 sends by their names (``ESC % / …``)."""


class _Sets:
    """The sets that are chosen now; a set is an encoding, its shift and its prefix."""

    def __init__(self) -> None:
        self._left = self._right = ("latin_1", 0, b"")
        self._left_size = self._right_size = 1

    def choose(self, place: str, last: str, *, double: bool) -> None:
        """Take a set for GL (``(``) or GR; an unknown set is shown as Latin-1."""
        if double:
            prefix = b"\x8f" if last == "D" else b""
            found = (_DOUBLE.get(last, "latin_1"), 0x80, prefix)
        elif place == "-":
            found = (f"iso8859_{_LATIN.get(last, 1)}", 0x80, b"")
        elif last == "I":  # katakana of JIS X0201
            found = ("shift_jis", 0x80, b"")
        else:
            found = ("ascii", 0, b"")
        size = 2 if double and last in _DOUBLE else 1
        if place == "(":
            self._left, self._left_size = found, size
        else:
            self._right, self._right_size = found, size

    def decode(self, data: bytes) -> str:
        """Return the text of bytes without an escape sequence."""
        text, at = "", 0
        while at < len(data):
            high = data[at] >= 0x80
            encoding, shift, prefix = self._right if high else self._left
            size = self._right_size if high else self._left_size
            piece = data[at : at + size]
            if data[at] <= 0x20 or (size == 1 and not shift):
                text += data[at : at + 1].decode("latin_1")
                at += 1
                continue
            moved = prefix + bytes((byte & 0x7F) | shift for byte in piece)
            text += moved.decode(encoding, "replace")
            at += size
        return text


def decode_compound_text(data: bytes) -> str:
    """Return the text; what is malformed is shown as replacement characters."""
    data, sets, text, at = data[:_MOST_BYTES], _Sets(), "", 0
    while at < len(data):
        found = _ESCAPE.search(data, at)
        if found is None:
            return text + sets.decode(data[at:])
        text += sets.decode(data[at : found.start()])
        at = found.end()
        place, single, doubled, double, length, utf8 = found.groups()
        if single is not None:
            sets.choose(place.decode(), single.decode(), double=False)
        elif double is not None:
            sets.choose(doubled.decode() or "(", double.decode(), double=True)
        elif utf8 is not None:
            text += utf8.decode("utf-8", "replace")
        elif length is not None:
            size = (length[0] & 0x7F) << 7 | (length[1] & 0x7F)
            name, _, own = data[at : at + size].partition(b"\x02")
            encoding = _OWN.get(name.decode("ascii", "replace").lower(), "latin_1")
            text += own.decode(encoding, "replace")
            at += size
    return text
