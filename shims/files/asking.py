"""The commands that ask the broker: open an address or a file, copy files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shims.files.connection import BrokerConnection
from shims.files.edited import Edited
from shims.files.protocol import EXIT_LEFT_OUT, TransferError, frame, tell
from shims.files.sending import Walk, send_entries

if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple


def mime_of(path: str) -> str:
    """Return the type that a name claims, or nothing."""
    import mimetypes

    return (mimetypes.guess_type(path, strict=False)[0] or "").lower()


def ask_open(words: List[str]) -> int:
    """Run ``vitrail-open [--edit] [--to SANDBOX] URL|FILE`` by asking the broker."""
    edit = words[:1] == ["--edit"]
    target, rest = take_option(words[1:] if edit else words, "--to")
    if len(rest) != 1:
        raise TransferError("usage: vitrail-open [--edit] [--to SANDBOX] URL|FILE")
    # Programs hand local files to xdg-open as addresses.
    text = local_path(rest[0])
    if os.path.exists(text):
        return open_file(text, target, edit=edit)
    if edit:
        raise TransferError(f"{text} does not exist")
    connection = BrokerConnection("VITRAIL_OPEN_URL")
    connection.send(frame({"type": "open-url", "url": text, "target": target}))
    connection.wait("done")
    return 0


def local_path(text: str) -> str:
    """Return the path that a ``file:`` address names; other text as it is."""
    for prefix in ("file://localhost/", "file:///"):
        if text.startswith(prefix):
            from urllib.parse import unquote

            return unquote(text[len(prefix) - 1 :])
    return text


def open_file(path: str, target: str, *, edit: bool = False) -> int:
    """Send a file to be opened elsewhere; with ``edit``, replace it by the result."""
    walk = Walk([path])
    if len(walk.found) != 1 or walk.found[0][2] < 0:
        raise TransferError(f"{path} is not a file")
    connection = BrokerConnection("VITRAIL_OPEN_FILE")
    name = walk.found[0][0][0]
    ask = {"type": "open-file", "name": name, "size": walk.size, "edit": edit}
    connection.send(frame(dict(ask, mime=mime_of(path), target=target)))
    connection.wait("go")
    if not edit:
        send_entries(connection, walk)
        return 0
    edited = Edited(walk.found[0][1])
    answer = send_entries(connection, walk, "delivery")
    if answer["type"] == "done":
        tell(f"{path} is unchanged")
        return 0
    tell(edited.replace(connection.reader, str(answer.get("source"))))
    connection.wait("done")
    return 0


def give(words: List[str]) -> int:
    """``give TOKEN URI…``: files that were copied or dragged here go where they may.

    Sends the broker a request and the files' entries.
    """
    paths = [local_path(word) for word in words[1:] if word.startswith("file:")]
    walk = Walk(paths)
    ask = {"type": "give", "token": words[0], "left_out": walk.left_out}
    return send_all(walk, ask)


def send_all(walk: Walk, ask: Dict[str, Any]) -> int:
    """Ask to copy files, and send them once that is permitted; print what is left out."""
    walk.require_files()
    walk.report()
    connection = BrokerConnection("VITRAIL_COPY")
    whole = dict(ask, name=walk.found[0][0][0], files=len(walk.found))
    connection.send(frame(dict(whole, size=walk.size)))
    connection.wait("go")
    send_entries(connection, walk)
    return EXIT_LEFT_OUT if walk.left_out else 0


def ask_copy(words: List[str]) -> int:
    """Copy files: ``vitrail-copy FILE… SANDBOX`` or ``--to SANDBOX FILE…``."""
    target, paths = take_option(words, "--to")
    if not target and len(paths) > 1:
        target = paths.pop()
    if not target or not paths:
        raise TransferError("usage: vitrail-copy FILE… SANDBOX")
    return send_all(Walk(paths), {"type": "copy", "target": target})


def take_option(
    words: List[str], *names: str, usage: str = ""
) -> Tuple[str, List[str]]:
    """Return the value of an option, and the words after it and ``--``.

    Raises TransferError with the ``usage``, if given, for another option.
    """
    value = ""
    if words[:1] and words[0] in names and len(words) > 1:
        value, words = words[1], words[2:]
    if words[:1] == ["--"]:
        return value, words[1:]
    if usage and words and words[0].startswith("-"):
        raise TransferError(usage)
    return value, list(words)
