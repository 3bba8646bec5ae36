"""Titles and application ids: whose they are, without hidden characters.

The prefix is always added and never looked for, so a sandbox that claims
another's name reads ``[red] [blue] title``: the first prefix is ours.
"""

from __future__ import annotations

import re
import unicodedata

from broker.core.escape import hidden
from broker.core.limits import wayland as limits

_APP_ID = re.compile(r"[^A-Za-z0-9._-]")
# More than this many marks on one letter reach into neighbouring lines.
_MARKS = 2
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})
_ISOLATE, _END_ISOLATE = "\u2068", "\u2069"
"""FSI and PDI of the Unicode bidirectional algorithm (UAX 9)."""


def clean_text(untrusted_text: str, limit: int) -> str:
    """Return the text with hidden characters removed and white space single.

    ``limit`` is in characters; the rest is replaced by ``…``.
    """
    if untrusted_text.isascii() and untrusted_text.isprintable():
        text = untrusted_text[: 4 * limit]
    else:
        text = _shown(untrusted_text[: 4 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _shown(untrusted_text: str) -> str:
    """Return only the characters that a reader sees, and white space."""
    out: list[str] = []
    marks = 0
    for char in untrusted_text:
        category = unicodedata.category(char)
        # guard: hidden characters (wayland)
        if hidden(char):
            if category == "Cc" and char.isspace():
                out.append(" ")
            continue
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if marks <= _MARKS:
            out.append(char)
    return "".join(out)


def title(sandbox: str, untrusted_title: bytes) -> bytes:
    """Return the title for the compositor: ``[sandbox] title``."""
    text = clean_text(
        untrusted_title.decode("utf-8", "replace"), limits.WAYLAND_TITLE_CHARS
    )
    if any(unicodedata.bidirectional(char) in _RIGHT_TO_LEFT for char in text):
        # A prefix without letters has no direction: it would take the
        # text's, and be at the other end.
        # guard: right-to-left titles are isolated
        text = f"{_ISOLATE}{text}{_END_ISOLATE}"
    # guard: title prefix
    return f"[{sandbox}] {text}".strip().encode()


def app_id(sandbox: str, untrusted_app_id: bytes) -> bytes:
    """Return the application id for the compositor: ``vitrail.sandbox.id``.

    Only letters, digits, dot, dash and underscore stay, so that compositor
    rules (regular expressions, CSS) match the names that they seem to match.
    """
    text = untrusted_app_id.decode("utf-8", "replace")[: limits.WAYLAND_APP_ID_CHARS]
    # guard: application id
    text = _APP_ID.sub("_", text).strip(".")
    return f"vitrail.{sandbox}.{text}".rstrip(".").encode()
