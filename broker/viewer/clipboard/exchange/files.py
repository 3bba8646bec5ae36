"""Files that were copied or dragged: their addresses, as the source lists them.

Only the source ever uses a path: its program opens the files, and their bytes go
to the target by ``vitrail.FileCopy`` (``broker/viewer/transfer``).
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.clipboard.types import FILE_KEY, Pick
from broker.core.limits import clipboard as limits
from broker.viewer.clipboard.exchange import messages as w

KEY = Pick(FILE_KEY, FILE_KEY)
"""The key to files that the user drags."""
URI_LIST = "text/uri-list"
"""RFC 2483, section 5."""


def pick(untrusted_types: Iterable[str]) -> list[Pick]:
    """Choose the type to read for a list of files: one or none."""
    names = [t for t in untrusted_types if t.lower().replace(" ", "") == URI_LIST]
    return [Pick(name, URI_LIST) for name in names[:1]]


def listed(items: Iterable[w.Item]) -> tuple[str, ...]:
    """Return the file addresses in copied text; none for links of other schemes.

    At most CLIPBOARD_FILES, each printable ASCII as RFC 3986 has it; others are left
    out, since what cannot be an address names no file.
    """
    found: list[str] = []
    for item in items:
        if item.kind == URI_LIST:
            untrusted_lines = item.data.decode("ascii", "replace").splitlines()
            found += [line for line in untrusted_lines if _is_file(line)]
    return tuple(found[: limits.CLIPBOARD_FILES])


def without_list(items: Iterable[w.Item]) -> list[w.Item]:
    """Return the items that may cross as content: all but the list of files."""
    return [item for item in items if item.kind != URI_LIST]


def key_in(untrusted_data: bytes) -> str | None:
    """Return the portal's key in dragged content; None: it is not one.

    GTK's programs add a zero, as of a C string.
    """
    key = untrusted_data.removesuffix(b"\0").decode("ascii", "replace")
    # guard: the key to files that are dragged is a short word
    good = key.isascii() and key.isprintable() and " " not in key
    return key if key and good else None


def _is_file(line: str) -> bool:
    """Return whether a line is a ``file:`` address that is short and printable."""
    # guard: addresses that are files
    return (
        line.startswith("file:///")
        and len(line) <= limits.CLIPBOARD_FILE_CHARS
        and line.isascii()
        and line.isprintable()
        and " " not in line
    )
