"""Which of a source's types cross, and under which names they are offered.

A selection comes under many names: X11's atoms, spellings of one type, a
browser's own.  Here each becomes a *kind*, one spelling for each type; a
malformed type has none and never crosses.

Workers and the viewer run this: the viewer checks the types that a source's worker
claims.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from broker.core.errors import PeerError
from broker.core.limits import clipboard as clipboard_limits
from broker.core.limits import wayland as limits

TEXT = "text/plain"
PNG = "image/png"
DEFAULT_PATTERNS = (TEXT, PNG)

TEXT_NAMES = (
    "text/plain;charset=utf-8",
    "UTF8_STRING",
    "text/plain",
    "TEXT",
    "STRING",
)
"""Types of UTF-8 text, the surest first: the order in which a source is asked, and
all that a target is offered, as applications look for different ones."""

SECRET_HINT = "x-kde-passwordManagerHint"  # noqa: S105 -- a type's name
"""A type by which password managers ask history managers to keep nothing."""

FILE_KEY = "application/vnd.portal.filetransfer"
"""Names no file: a key that the source of a drag has registered its files under, at the
desktop's document portal."""

NEVER = frozenset(
    {
        "text/uri-list",
        "text/x-moz-url",
        "text/x-moz-url-data",
        "text/x-moz-url-priv",
        "application/x-moz-file",
        "application/x-moz-file-promise",
        "application/x-moz-file-promise-url",
        # KDE's own spelling of a list, which its file manager prefers.
        "application/x-kde4-urilist",
        # Where a service of KDE's archive program would be asked to put files.
        "application/x-kde-ark-dndextract-service",
        "application/x-kde-ark-dndextract-path",
        "x-special/gnome-copied-files",
        "x-special/mate-copied-files",
        "x-special/nautilus-clipboard",
        FILE_KEY,
        "application/vnd.portal.files",
        "application/x-kde-cutselection",
    }
)
"""Names of files.  A path means another file in another sandbox, or gives away
one's names; files cross by the file transfer service, by their bytes."""

OURS = "application/x-vitrail-"
"""Marks of drags and exports: not content, and reserved for Vitrail."""

_TYPE = re.compile(
    r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}", re.ASCII
)
"""RFC 6838 section 4.2, in lower case."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A type to ask the source for, in its spelling, and its kind."""

    name: str
    kind: str


def kind_of(untrusted_type: str) -> str | None:
    """Return the kind of an offered MIME type; None for what never crosses.

    Parameters (``;charset=``) are understood of UTF-8 text only.
    """
    spelling = untrusted_type.lower().replace(" ", "")
    if untrusted_type in TEXT_NAMES or spelling in TEXT_NAMES:
        return TEXT
    # guard: the mark of a drag is not a type of content
    # guard: names of files
    if (
        spelling in NEVER
        or spelling.startswith(OURS)
        or _TYPE.fullmatch(spelling) is None
    ):
        return None
    return spelling


def names_files(untrusted_types: Iterable[str]) -> bool:
    """Return whether a file's name, or a link, is among them."""
    spellings = (name.lower().replace(" ", "") for name in untrusted_types)
    # guard: spellings of names of files
    return any(spelling.partition(";")[0] in NEVER for spelling in spellings)


DraggedFiles: TypeAlias = Literal["", "names", "key"]
"""What a drag has of files: nothing, their names alone, or the portal's key, too."""


def dragged_files(untrusted_types: Sequence[str]) -> DraggedFiles:
    """Return what a drag of these types has of files."""
    if FILE_KEY in untrusted_types:
        return "key"
    return "names" if names_files(untrusted_types) else ""


def fits(kind: str, patterns: Collection[str]) -> bool:
    """Return whether a kind is one of ``patterns``: a type, ``image/*`` or ``*/*``."""
    return any(p in {kind, f"{kind.partition('/')[0]}/*", "*/*"} for p in patterns)


def choose(
    untrusted_types: Sequence[str], patterns: Collection[str]
) -> tuple[Pick, ...]:
    """Choose the types to read: one name for each kind that fits, text first.

    At most CLIPBOARD_KINDS; the source's order decides which.  Raises PeerError
    for more types, or longer ones, than a filter lets a client offer.
    """
    # guard: number of types
    if len(untrusted_types) > limits.WAYLAND_MIMES:
        raise PeerError("the selection has more types than a client may offer")
    found: dict[str, str] = {}
    for name in untrusted_types:
        # guard: length of types
        if len(name.encode("utf-8", "replace")) > limits.WAYLAND_MIME_BYTES:
            raise PeerError("a type's name is too long")
        kind = kind_of(name)
        if kind is not None and fits(kind, patterns):
            before = found.get(kind)
            if before is None or _rank(name) < _rank(before):
                found[kind] = name
    picks = [Pick(name, kind) for kind, name in found.items()]
    picks.sort(key=lambda pick: pick.kind != TEXT)
    return tuple(picks[: clipboard_limits.CLIPBOARD_KINDS])


def _rank(name: str) -> int:
    spelling = name if name in TEXT_NAMES else name.lower().replace(" ", "")
    return TEXT_NAMES.index(spelling) if spelling in TEXT_NAMES else len(TEXT_NAMES)


def names_of(kind: str) -> tuple[str, ...]:
    """The types to offer a kind under."""
    return TEXT_NAMES if kind == TEXT else (kind,)
