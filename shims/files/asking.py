"""The commands that ask the broker: open an address or a file, copy files."""

from __future__ import annotations

import mimetypes
import os
from typing import List, Tuple

from shims.files.connection import Connection, tell
from shims.files.protocol import TransferError, frame
from shims.files.sending import Walk, send_entries


def mime_of(path: str) -> str:
    """Return the type that a name claims, or nothing."""
    return (mimetypes.guess_type(path, strict=False)[0] or "").lower()


def ask_open(words: List[str]) -> int:
    """``vitrail-open [--to SANDBOX] URL|FILE``."""
    target, rest = take_target(words)
    if len(rest) != 1:
        raise TransferError("usage: vitrail-open [--to SANDBOX] URL|FILE")
    text = rest[0]
    if text.startswith("file://localhost/"):
        text = text[len("file://localhost") :]
    if text.startswith("file:///"):
        # Programs hand local files to xdg-open as addresses.
        from urllib.parse import unquote

        text = unquote(text[len("file://") :])
    if os.path.exists(text):
        return open_file(text, target)
    connection = Connection("VITRAIL_OPEN_URL")
    connection.send(frame({"type": "open-url", "url": text, "target": target}))
    connection.wait("done")
    return 0


def open_file(path: str, target: str) -> int:
    """Have a file opened elsewhere."""
    walk = Walk([path])
    if len(walk.found) != 1 or walk.found[0][2] < 0:
        raise TransferError(f"{path} is not a file")
    connection = Connection("VITRAIL_OPEN_FILE")
    name = walk.found[0][0][0]
    ask = {"type": "open-file", "name": name, "size": walk.size}
    connection.send(frame(dict(ask, mime=mime_of(path), target=target)))
    connection.wait("go")
    send_entries(connection, walk)
    return 0


def ask_copy(words: List[str]) -> int:
    """``vitrail-copy FILE… SANDBOX`` or ``vitrail-copy --to SANDBOX FILE…``."""
    target, paths = take_target(words)
    if not target and len(paths) > 1:
        target = paths.pop()
    if not target or not paths:
        raise TransferError("usage: vitrail-copy FILE… SANDBOX")
    walk = Walk(paths)
    if not walk.found:
        raise TransferError("there is nothing to copy")
    if walk.left_out:
        tell(f"{walk.left_out} links, devices or too deep directories are left out")
    connection = Connection("VITRAIL_COPY")
    ask = {"type": "copy", "name": walk.found[0][0][0], "files": len(walk.found)}
    connection.send(frame(dict(ask, size=walk.size, target=target)))
    connection.wait("go")
    send_entries(connection, walk)
    return 0


def take_target(words: List[str]) -> Tuple[str, List[str]]:
    """Return the value of ``--to`` and the rest."""
    rest = list(words)
    target = ""
    if rest[:1] == ["--to"] and len(rest) > 1:
        target = rest[1]
        del rest[:2]
    if rest[:1] == ["--"]:
        del rest[0]
    return target, rest
