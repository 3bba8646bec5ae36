"""The commands of this program, by its first argument."""

from __future__ import annotations

import json
import os
import sys
from typing import List, NoReturn

from shims.files.asking import ask_copy, ask_open
from shims.files.connection import tell
from shims.files.protocol import TransferError
from shims.files.receiving import open_here, receive
from shims.files.sending import Walk, entries
from shims.files.store import Store, keep


def send_files(words: List[str]) -> int:
    """Write the entries of files to standard output."""
    walk = Walk(words)
    out = sys.stdout.buffer
    try:
        for data in entries(walk):
            out.write(data)
        out.flush()
    except BrokenPipeError:
        raise TransferError("the receiver broke it off") from None
    return 0


def store_entries(words: List[str]) -> int:
    """Keep entries from standard input; prints the names as JSON."""
    names = keep(sys.stdin.buffer, Store(words[0], words[1], int(words[2])))
    print(json.dumps(names))
    return 0


VERBS = {
    "xdg-open": ask_open,
    "vitrail-open": ask_open,
    "x-www-browser": ask_open,
    "vitrail-copy": ask_copy,
    "receive": receive,
    "open-here": open_here,
    "send": send_files,
    "store": store_entries,
}


def usage() -> NoReturn:
    """Say what there is."""
    raise TransferError(f"usage: vitrail_files.py {'|'.join(VERBS)} …")


def main(argv: List[str]) -> int:
    """Do what the first word says."""
    os.umask(0o077)
    try:
        if not argv or argv[0] not in VERBS:
            usage()
        return VERBS[argv[0]](argv[1:])
    except TransferError as error:
        tell(f"vitrail: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
