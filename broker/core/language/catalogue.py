"""Texts in the user's language; a text without a translation stays English.

For what a person reads.  Logs, JSON, error codes and rules are English in every language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gettext import GNUTranslations

FOLDER = Path(__file__).resolve().parents[2] / "data" / "locale"
"""``DOMAIN/LANGUAGE.po`` in the source, ``DOMAIN/LANGUAGE.mo`` in what is installed."""
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

    A module binds the methods as ``tr, trn = catalogue.text, catalogue.plural``.
    Raises OSError or ValueError if a catalogue is there and cannot be read.
    """

    def __init__(self, domain: str, wanted: list[str]) -> None:
        self._domain = domain
        self.choose(wanted)

    def choose(self, wanted: list[str]) -> None:
        """Use the first of the languages that the domain has, or else English."""
        self.language = "en"
        self._found: GNUTranslations | None = None
        for name in wanted:
            found = _read(FOLDER / self._domain / name)
            if found is not None:
                self.language, self._found = name, found
                break

    def text(self, message: str, /, **values: object) -> str:
        """Return a message in the user's language, with values for its ``{name}``."""
        found = self._found.gettext(message) if self._found else message
        return found.format_map(values) if values else found

    def plural(self, one: str, many: str, number: int, /, **values: object) -> str:
        """Return the form of a message for a number, which is its ``{number}``."""
        found = one if number == 1 else many
        if self._found:
            found = self._found.ngettext(one, many, number)
        return found.format_map({"number": number, **values})


def _read(path: Path) -> GNUTranslations | None:
    """Return a catalogue; None: there is no such file."""
    binary, source = path.with_suffix(".mo"), path.with_suffix(".po")
    if not (binary.is_file() or source.is_file()):
        return None
    # Late, for processes that begin often: English needs none of it.  Catalogues are
    # read before a process is confined.
    import gettext
    import io
    import struct

    if binary.is_file():
        try:
            return gettext.GNUTranslations(io.BytesIO(binary.read_bytes()))
        # guard: a catalogue that was cut ends no process
        except (struct.error, LookupError) as error:
            raise ValueError(f"{binary} is damaged: {error}") from error
    from broker.core.language.po_file import compiled  # late: of a checkout alone

    text = source.read_text(encoding="utf-8")
    return gettext.GNUTranslations(io.BytesIO(compiled(text)))
