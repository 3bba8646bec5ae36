"""The commands that the broker starts in a target: receive, open here."""

from __future__ import annotations

import os
import secrets
import shutil
from typing import List

from shims.files.connection import Connection
from shims.files.openers import kind_of, opener, run
from shims.files.protocol import TransferError, check_path, frame
from shims.files.store import Store, keep

INCOMING = "Incoming"


def receive(words: List[str]) -> int:
    """Fetch the files sent to this sandbox; open them if so requested."""
    connection = Connection("VITRAIL_COPY")
    connection.send(frame({"type": "take", "token": words[0]}))
    delivery = connection.wait("delivery")
    source = str(delivery.get("source"))
    check_path([source])
    if delivery.get("open") is not True:
        top = os.path.join(os.path.expanduser("~"), INCOMING, source)
        names = keep(connection.reader, Store(top, source))
        print("\n".join(os.path.join(top, name) for name in names))
        return 0
    base = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    top = os.path.join(base, "vitrail-opened", secrets.token_hex(8))
    names = keep(connection.reader, Store(top, source, 1 << 20))
    connection.socket.close()
    if len(names) != 1:
        raise TransferError("not one file to be opened")
    path = os.path.join(top, names[0])
    os.chmod(path, 0o400)
    try:
        return run(opener(path, kind_of(path), words[1:]))
    finally:
        shutil.rmtree(top, ignore_errors=True)


def open_here(words: List[str]) -> int:
    """``open-here URL [COMMAND…]``: started by the broker in the target."""
    return run(opener(words[0], "url", words[1:]))
