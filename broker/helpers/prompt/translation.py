"""The dialog's texts in the user's language.

Loaded before the process is confined.  There is no catalogue of a language from right to
left, as the dialog's drawing has no order of such texts: these users get English.
"""

from __future__ import annotations

import os

from broker.core.language.catalogue import Catalogue, languages

_catalogue = Catalogue("dialog", languages(os.environ))


def tr(message: str, /, **values: object) -> str:
    """Return a message in the user's language, with values for its ``{name}``."""
    return _catalogue.text(message, **values)


def trn(one: str, many: str, number: int, /, **values: object) -> str:
    """Return the form of a message for a number, which is its ``{number}``."""
    return _catalogue.plural(one, many, number, **values)


def language() -> str:
    """Return the language of the texts."""
    return _catalogue.language
