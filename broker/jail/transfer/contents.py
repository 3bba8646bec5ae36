"""Whether a file is of the type that its name promises.

A few signatures, as file(1) has them: of types that are opened often, and of types that
run when opened.  A file of any other type passes: its name decides alone.
"""

from __future__ import annotations

from broker.core.errors import RefusedError
from broker.core.transfer.claimed_type import mime_type_of_name
from broker.core.transfer.entries import Entry, FileEntry, entry_frame

HEAD_BYTES = 512
"""Length of a file's head, in which its type is recognised."""

# Offset, bytes, type.
_MAGIC = (
    (0, b"%PDF-", "application/pdf"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (0, b"\x7fELF", "application/x-executable"),
    (0, b"MZ", "application/x-executable"),
    (0, b"#!", "text/x-script"),
    (0, b"[Desktop Entry]", "application/x-desktop"),
)
_RUNS = frozenset(
    {"application/x-executable", "text/x-script", "application/x-desktop"}
)
_RUN_NAMES = frozenset(
    {"appimage", "bat", "cmd", "com", "desktop", "exe", "jar", "js", "lnk", "msi"}
    | {"pif", "ps1", "run", "scr", "sh", "vbs", "wsf"}
)
# Formats that are archives inside (OpenDocument, Office, EPUB, Java), old Office.
_CONTAINERS = frozenset(
    {"application/zip", "application/gzip", "application/x-ole-storage"}
)

# Compressed pictures: .svgz.
_MEDIA_CONTAINERS = frozenset({"application/gzip"})


def sniffed(head: bytes) -> str:
    """Return the type that the first bytes say, or nothing."""
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    return ""


def refuse_contents(name: str, head: bytes) -> None:
    """Raise RefusedError where name and content are two different things.

    ``head``: the first bytes of the file, some hundred.  Programs and scripts are
    not opened at all: to open them is to run them.
    """
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    found, said = sniffed(head), mime_type_of_name(name)
    # guard: programs are not opened
    if found in _RUNS or ending in _RUN_NAMES:
        why = "content is a program" if found in _RUNS else f"extension is .{ending}"
        raise RefusedError(f"programs are not opened, and the file's {why}")
    document = said.startswith(("image/", "text/")) or said == "application/pdf"
    differ = document if found in _CONTAINERS else found and said and found != said
    # guard: content against name
    if differ:
        raise RefusedError(f"the content is {found}, but the file name says {said}")
    if said == "application/pdf" and found != said:
        raise RefusedError(f"the content is not {said}, which the file name indicates")


_DISGUISES = ("image/", "audio/", "video/", "application/pdf")
"""Types whose names promise that the file runs nothing."""


def refuse_disguise(name: str, head: bytes) -> None:
    """Raise RefusedError where a copied file is not what its name promises.

    Less is asked of a copy than of a file that is opened: programs and archives may
    be copied, and pictures often have the ending of another picture format.
    """
    found, said = sniffed(head), mime_type_of_name(name)
    if not found or not said.startswith(_DISGUISES):
        return
    both = found.startswith("image/") and said.startswith("image/")
    # guard: disguised files of a copy
    if found != said and not both and found not in _MEDIA_CONTAINERS:
        raise RefusedError(f"the content of {name} is {found}, not {said}")


class HeadCheck:
    """Looks at the beginning of each file of a transfer before any of it is forwarded.

    ``single``: the file is to be opened, which asks for more than a copy does.
    """

    def __init__(self, *, single: bool) -> None:
        self.single = single
        self._file: FileEntry | None = None
        self._head = b""

    @property
    def looking(self) -> bool:
        """Return whether the rest of a head is awaited."""
        return self._file is not None

    def take(self, item: Entry | bytes) -> list[bytes]:
        """Return the frames to pass on now.  Raises RefusedError for a false name."""
        if isinstance(item, FileEntry):
            self._file, self._head = item, b""
        elif not isinstance(item, bytes):
            return [entry_frame(item)]
        elif self._file is None:
            return [item]
        else:
            self._head += item
        return self._passed(self._file)

    def _passed(self, file: FileEntry) -> list[bytes]:
        """Return file parts once their head has been checked."""
        if len(self._head) < min(HEAD_BYTES, file.size):
            return []
        check = refuse_contents if self.single else refuse_disguise
        # guard: content looked at first
        check(file.path[-1], self._head)
        self._file = None
        return [entry_frame(file), self._head] if self._head else [entry_frame(file)]
