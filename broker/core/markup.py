"""Text as the markup that desktops show.

``html`` does the same, and has a table of 2,231 entities in memory.
"""

from __future__ import annotations

_MARKUP = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))


def escape_markup(text: str) -> str:
    """Return the text as markup that shows it."""
    for char, entity in _MARKUP:
        text = text.replace(char, entity)
    return text


def unescape_markup(markup: str) -> str:
    """Return the text of which ``escape_markup`` made this."""
    for char, entity in reversed(_MARKUP):
        markup = markup.replace(entity, char)
    return markup
