"""Cleaning text that comes into a sandbox, where its record asks for it.

A terminal runs what a pasted escape sequence or line end says, and text
direction marks make a command read as another one.
"""

from __future__ import annotations

import unicodedata

from broker.core.errors import PeerError

_KEPT = frozenset("\t\n")
_JOINERS = frozenset("\u200c\u200d")
"""Zero width, but Persian, Indic scripts and emoji are spelled with them."""
_LINE_ENDS = str.maketrans({"\u2028": "\n", "\u2029": "\n", "\x85": "\n"})
# Cc control, Cf format (bidi, zero width, tags), Cs surrogates, Co private
# use, Cn unassigned and non-characters.
_REMOVED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def clean_text(untrusted_data: bytes) -> bytes:
    r"""The text without control and text direction characters.

    Tabs and line ends stay; all line ends become ``\n``.  Raises PeerError for
    what is not UTF-8: it is refused whole, as a guess might read otherwise.
    """
    try:
        text = untrusted_data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PeerError("the text is not UTF-8, so it cannot be cleaned") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_LINE_ENDS)
    return "".join(filter(_harmless, text)).encode()


def _harmless(char: str) -> bool:
    if char in _KEPT or char in _JOINERS:
        return True
    return unicodedata.category(char) not in _REMOVED
