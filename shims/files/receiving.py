"""The commands that the broker starts in a target: receive, open here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shims.files.connection import BrokerConnection
from shims.files.edited import hash_of
from shims.files.incoming_files import EntryStore, keep
from shims.files.openers import kind_of, opener, run
from shims.files.progress import Bar
from shims.files.protocol import TransferError, check_path, frame
from shims.files.sending import Walk, send_entries

if TYPE_CHECKING:
    from typing import List

INCOMING = "Incoming"


def receive(words: List[str]) -> int:
    """Fetch the files sent to this sandbox; open them if so requested."""
    connection = BrokerConnection("VITRAIL_COPY")
    connection.send(frame({"type": "take", "token": words[0]}))
    delivery = connection.wait("delivery")
    source = str(delivery.get("source"))
    check_path([source])
    total = delivery.get("size")
    bar = Bar(total if type(total) is int else 0, "received")
    if delivery.get("open") is not True:
        top = os.path.join(os.path.expanduser("~"), INCOMING, source)
        names = keep(connection.reader, EntryStore(top, source, bar=bar))
        print("\n".join(os.path.join(top, name) for name in names))
        return 0
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    top = os.path.join(base, "vitrail-opened", os.urandom(8).hex())
    names = keep(connection.reader, EntryStore(top, source, 1 << 20, bar))
    connection.socket.close()
    if len(names) != 1:
        raise TransferError("the transfer does not contain exactly one file to open")
    path = os.path.join(top, names[0])
    try:
        back = str(delivery.get("back") or "")
        if back:
            return edit_here(path, back, words[1:])
        os.chmod(path, 0o400)
        return run(opener(path, kind_of(path), words[1:]), sealed=top)
    finally:
        import shutil

        shutil.rmtree(top, ignore_errors=True)


def edit_here(path: str, token: str, fallback: List[str]) -> int:
    """Run the program that edits a file; send it back if its content has changed."""
    with open(path, "rb") as file:
        before = hash_of(file.fileno())
    code = run(opener(path, kind_of(path), fallback))
    with open(path, "rb") as file:
        if hash_of(file.fileno()) == before:
            return code
    walk = Walk([path])
    if len(walk.found) != 1 or walk.found[0][2] < 0:
        raise TransferError("the edited file is no longer a regular file")
    connection = BrokerConnection("VITRAIL_COPY")
    connection.send(frame({"type": "return", "token": token, "size": walk.size}))
    connection.wait("go")
    send_entries(connection, walk)
    return code


def open_here(words: List[str]) -> int:
    """``open-here URL [COMMAND…]``: started by the broker in the target."""
    return run(opener(words[0], "url", words[1:]))
