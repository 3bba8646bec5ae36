"""Read a catalogue in gettext's PO format, and compile it to the MO format.

``setup.py`` runs this file alone, so it imports nothing of ours.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

_MAGIC = 0x950412DE
_LINE = re.compile(
    r'(?:(msgid|msgid_plural|msgstr(?:\[\d\])?) )?("(?:[^"\\]|\\[nt"\\])*")$'
)
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


class PoEntry(NamedTuple):
    """A message and its translations: one, or one for each plural form.

    ``message`` is empty for the catalogue's header.
    """

    message: str
    plural: str
    strings: tuple[str, ...]


def parse(text: str) -> list[PoEntry]:
    """Return the entries of a catalogue, the header first.

    Raises ValueError for a line that is not of the subset that our catalogues use:
    without contexts, obsolete and fuzzy entries.
    """
    entries: list[PoEntry] = []
    fields: dict[str, str] = {}
    key = ""

    def end() -> None:
        if fields:
            strings = [value for name, value in fields.items() if "msgstr" in name]
            one = PoEntry(
                fields["msgid"], fields.get("msgid_plural", ""), tuple(strings)
            )
            entries.append(one)
            fields.clear()

    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") and "fuzzy" not in line and line[:2] != "#~":
            continue
        if not line.strip():
            continue
        found = _LINE.match(line)
        if found is None or not (found[1] or key):
            raise ValueError(
                f"line {number} of the catalogue is not understood: {line}"
            )
        if found[1]:
            key = found[1]
            if key == "msgid":
                end()
            fields[key] = ""
        fields[key] += _ESCAPE.sub(lambda one: _ESCAPES[one[1]], found[2][1:-1])
    end()
    return entries


def compiled(text: str) -> bytes:
    """Return a catalogue in the MO format.  Raises ValueError as ``parse`` does."""
    pairs = []
    for one in parse(text):
        key = f"{one.message}\0{one.plural}" if one.plural else one.message
        pairs.append((key.encode(), "\0".join(one.strings).encode()))
    pairs.sort()
    count = len(pairs)
    place = 28 + 16 * count
    tables: list[bytes] = []
    data = b""
    for column in (0, 1):
        for pair in pairs:
            tables.append(struct.pack("<II", len(pair[column]), place + len(data)))
            data += pair[column] + b"\0"
    head = struct.pack("<7I", _MAGIC, 0, count, 28, 28 + 8 * count, 0, place)
    return head + b"".join(tables) + data
