"""Cleaning of content for a sandbox, where its record asks for it.

A terminal runs what a pasted escape sequence or line end says, and text
direction marks make a command read as another one.
"""

from __future__ import annotations

from broker.core.clipboard.types import PNG
from broker.core.errors import PeerError
from broker.core.escape import hidden
from broker.jail.clipboard.picture import Steps, rewrite_png

_KEPT = frozenset("\t\n")
_SPELLED = frozenset("\u200c\u200d\ufe0e\ufe0f\u2800")
"""Not seen, but Persian, Indic scripts, emoji and Braille are written with them."""
_LINE_ENDS = str.maketrans({"\u2028": "\n", "\u2029": "\n", "\x85": "\n"})
_SLICE = 1 << 17
"""Characters between two turns of others: some ten milliseconds."""


# Content is cleaned in the target's worker. The requirement says "in the worker's
# jail". The source's worker may have been taken over by content that it read before,
# and would then vouch for its picture; the broker parses nothing. So it is the
# target's: the cleaned content arrives there anyway, and a mistake in the cleaning
# hurts the sandbox that asked for it. The decoder of PNG is ours, in Python over zlib,
# and slow (some seconds for a full screen); Pillow's C code reads hostile bytes
# nowhere.
def clean(kind: str, untrusted_data: bytes) -> Steps:
    """Clean one item: text without hidden characters, PNG as ``picture`` does.

    Raises PeerError for what cannot be cleaned: nothing of it crosses.
    """
    if kind == PNG:
        return (yield from rewrite_png(untrusted_data))
    if kind.startswith("text/"):
        return (yield from _text(untrusted_data))
    raise PeerError(f"the type {kind} cannot be sanitized")


def _text(untrusted_data: bytes) -> Steps:
    r"""Remove control and text direction characters from text.

    Tabs and line ends stay; all line ends become ``\n``.  Text that is not UTF-8 is
    refused whole, as the target might read it otherwise.
    """
    try:
        text = untrusted_data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PeerError("the text is not UTF-8: cannot sanitize it") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_LINE_ENDS)
    out: list[str] = []
    for at in range(0, len(text), _SLICE):
        out.append("".join(filter(_harmless, text[at : at + _SLICE])))
        yield
    return "".join(out).encode()


def _harmless(char: str) -> bool:
    if char in _KEPT or char in _SPELLED:
        return True
    # guard: hidden characters
    return not hidden(char)
