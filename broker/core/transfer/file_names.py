"""Names of files that a sandbox sends: one strict rule.

Names in any script pass: letters, marks, digits, punctuation, symbols and spaces.
Refused are control and format characters (bidirectional, zero width, tags), which change
how others are read, and characters that are drawn as a blank, are private or not
assigned.  On top of that: one component only, no backslash, nothing that is hidden at an
end of the name, and none of the device names of Windows, where synchronised folders end.

A name that is refused is not repaired, because two hostile names could become
one; ``display_name`` is for showing it.  The trusted dialog escapes what it cannot draw.

The worker checks each name that it receives; the viewer, session children and brokerctl
do so for names in requests.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NewType

from broker.core.errors import PeerError, RefusedError
from broker.core.escape import hidden
from broker.core.limits import transfer as limits

FileName = NewType("FileName", str)
"""One component of a path that passed ``take_file_name``."""

_MARKS = 8
"""Maximum number of combining marks of one character; written languages need half."""
_WINDOWS = re.compile(
    r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?:[ ]*\..*)?",
    re.IGNORECASE | re.DOTALL,
)


def take_file_name(untrusted_name: bytes) -> FileName:
    """Return the name, unchanged; or raise ``RefusedError`` with the reason."""
    if not untrusted_name:
        raise RefusedError("the name is empty")
    # guard: length of a name
    if len(untrusted_name) > limits.FILE_NAME_BYTES:
        raise RefusedError(f"the name is longer than {limits.FILE_NAME_BYTES} bytes")
    try:
        untrusted_text = untrusted_name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(f"byte {error.start} of the name is not UTF-8") from None
    _refuse_form(untrusted_text)
    for place, char in enumerate(untrusted_text):
        if reason := _fault(char):
            raise RefusedError(
                f"character {place + 1} of the name is U+{ord(char):04X}: {reason}"
            )
    return FileName(untrusted_text)


def display_name(untrusted_name: bytes) -> str:
    """Return a name to be shown, with ``_`` for each character that is refused.

    Not a name to create a file by: several names have the same display form.
    """
    text = untrusted_name[: limits.FILE_NAME_BYTES].decode("utf-8", "replace")
    kept = (c.isprintable() and c != "\ufffd" and not _fault(c) for c in text)
    return "".join(c if ok else "_" for c, ok in zip(text, kept, strict=True)) or "_"


def suggested_name(untrusted_name: str) -> str:
    """Return a name to offer to the user, who may change it; "" for one to invent.

    It is not hidden: users do not look for saved files among hidden ones.
    """
    if not untrusted_name:
        return ""
    shown = display_name(untrusted_name.encode("utf-8", "replace"))
    # guard: no hidden file is suggested
    shown = shown.strip(" ").lstrip(".-").strip(" ")
    try:
        return take_file_name(shown.encode())
    except RefusedError:
        return ""


def saved_names(untrusted_names: Sequence[str], kind: str) -> tuple[str, ...]:
    """Return names of several files to save, each as ``suggested_name`` makes it.

    Raises PeerError where nothing is saved, and for names that are empty or equal then.
    """
    # guard: names are of files that are saved
    if untrusted_names and kind != "save":
        raise PeerError("file names are only allowed for saving")
    names = tuple(map(suggested_name, untrusted_names))
    # guard: several files have names that differ
    if not all(names) or len(set(names)) < len(names):
        raise PeerError("files have no names, or equal names")
    return names


def _refuse_form(text: str) -> None:
    """Raise RefusedError for forms that depend on more than one character."""
    # guard: names that walk
    if text == "." or text.startswith(".."):
        raise RefusedError("the name is '.' or begins with '..'")
    # guard: names that are options
    if text.startswith("-"):
        raise RefusedError("the name begins with '-' and would be read as an option")
    # guard: spaces at an end of a name
    if "Zs" in {unicodedata.category(text[0]), unicodedata.category(text[-1])}:
        raise RefusedError("the name begins or ends with a space")
    # It would be drawn on the character before the name.
    # guard: marks before a name
    if unicodedata.category(text[0]).startswith("M"):
        raise RefusedError("the name begins with a combining mark")
    kinds = "".join(unicodedata.category(char)[0] for char in text)
    # Marks are drawn on each other, and cover the previous and the next line.
    # guard: few marks on a character
    if "M" * (_MARKS + 1) in kinds:
        raise RefusedError(f"the name has more than {_MARKS} marks on one character")
    # guard: names of devices
    if _WINDOWS.fullmatch(text):
        raise RefusedError("the name is reserved for a device on Windows")


def _fault(char: str) -> str:
    """Return why a character may not be in a name, or nothing."""
    # guard: separators in a name
    if char in "/\\":
        return "a path separator"
    if " " <= char <= "~":
        return ""
    # guard: categories of characters
    if reason := _KINDS.get(unicodedata.category(char)):
        return reason
    # guard: blank letters
    return "it is drawn as a blank" if hidden(char) else ""


_KINDS = {
    "Cc": "a control character",
    "Cf": "a format character (bidirectional, zero width or tag)",
    "Cs": "a surrogate",
    "Co": "a private use character",
    "Cn": "not assigned",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
