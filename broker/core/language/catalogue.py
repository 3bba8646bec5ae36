"""Texts in the user's language; a text without a translation stays English.

For what a person reads.  Logs, JSON, error codes and rules are English in every language.
"""

from __future__ import annotations

import gettext
import io
import re
from collections.abc import Mapping
from pathlib import Path

from broker.core.language.po_file import compiled

FOLDER = Path(__file__).resolve().parents[2] / "data" / "locale"
"""``DOMAIN/LANGUAGE.po`` in the source, ``DOMAIN/LANGUAGE.mo`` in what is installed."""
RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ur"})
_NAME = re.compile(r"([a-z]{2,3})(_[A-Z]{2})?(?=$|[.@])")


def mark(message: str) -> str:
    """Return a message as it is; ``docs.print_catalogues`` finds it here."""
    return message


def languages(environ: Mapping[str, str]) -> list[str]:
    """Return the languages that the user wants, the best first; those after English not.

    As gettext(3) does: LC_ALL, LC_MESSAGES or LANG has the locale, which need not be
    installed; LANGUAGE is preferred unless the locale is C.
    """
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next(filter(None, map(environ.get, names)), "C")
    if locale.partition(".")[0] in {"C", "POSIX"}:
        return []
    found: list[str] = []
    for word in (environ.get("LANGUAGE") or locale).split(":"):
        name = _NAME.match(word)
        if name is None:
            continue
        if name[1] == "en":
            break
        found += [name[0], name[1]] if name[2] else [name[1]]
    return list(dict.fromkeys(found))


class Catalogue:
    """The translations of a domain in the first of the languages that it has.

    Raises OSError or ValueError if a catalogue is there and cannot be read.
    """

    def __init__(self, domain: str, wanted: list[str]) -> None:
        self.language = "en"
        self._found = gettext.NullTranslations()
        for name in wanted:
            found = _read(FOLDER / domain / name)
            if found is not None:
                self.language, self._found = name, found
                break

    @property
    def right_to_left(self) -> bool:
        """Return whether the language is written from right to left."""
        return self.language.partition("_")[0] in RIGHT_TO_LEFT

    def text(self, message: str, /, **values: object) -> str:
        """Return the translation of a message, with values in place of its ``{name}``."""
        found = self._found.gettext(message)
        return found.format_map(values) if values else found

    def plural(self, one: str, many: str, number: int, /, **values: object) -> str:
        """Return the form of a message for a number, which is its ``{number}``."""
        found = self._found.ngettext(one, many, number)
        return found.format_map({"number": number, **values})


def _read(path: Path) -> gettext.GNUTranslations | None:
    """Return a catalogue; None: there is no such file."""
    binary, source = path.with_suffix(".mo"), path.with_suffix(".po")
    if binary.is_file():
        return gettext.GNUTranslations(io.BytesIO(binary.read_bytes()))
    if source.is_file():  # a checkout
        text = source.read_text(encoding="utf-8")
        return gettext.GNUTranslations(io.BytesIO(compiled(text)))
    return None
