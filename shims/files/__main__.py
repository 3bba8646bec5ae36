"""The commands of this program, by its first argument."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from shims.files.asking import ask_copy, ask_open, give
from shims.files.calling import (
    ask_call,
    call_here,
    continue_call,
    serve_call,
    serve_here,
)
from shims.files.camera import narrow
from shims.files.confine import confine
from shims.files.connection import tell
from shims.files.edited import Edited, Saved
from shims.files.notifications import serve_notifications
from shims.files.portal import serve_portal
from shims.files.ports import ask_connect
from shims.files.printing import keep_pages, print_documents
from shims.files.protocol import EXIT_FAILED, EXIT_NO_ROOM, FULL, TransferError
from shims.files.qrexec import qrexec_client_vm
from shims.files.receiving import open_here, receive
from shims.files.sanitizing import harmless, sanitize
from shims.files.sending import Walk, write_entries
from shims.files.services import list_services
from shims.files.serving import serve_services
from shims.files.ssh_agent import ssh_agent, ssh_keys
from shims.files.store import Store, keep
from shims.files.tray import serve_tray

if TYPE_CHECKING:
    import _socket
    from io import BufferedReader
    from typing import Callable, List, NoReturn


def send_files(words: List[str]) -> int:
    """Write the entries of files to standard output.

    The broker has followed the links in their paths.
    """
    # guard: a link made after the look is not sent through
    _write(Walk(words, follow=False))
    return 0


def _write(walk: Walk) -> None:
    try:
        write_entries(walk, sys.stdout.buffer)
    except BrokenPipeError:
        raise TransferError("the receiver broke it off") from None


def edit_file(words: List[str]) -> int:
    """Write a file's entries to standard output, then replace it by the edited file.

    Nothing comes back where standard input ends at once.  ``edit FILE ORIGIN``.
    """
    # guard: a link made after the look is not edited through
    walk = Walk(words[:1], follow=False)
    if len(walk.found) != 1 or walk.found[0][2] < 0:
        raise TransferError(f"{words[0]} is not a file")
    path = walk.found[0][1]
    edited = Edited(path)
    tell(f"sha256 {edited.before.hex()}")
    _write(walk)
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)  # its end is what the receiver waits for
    # guard: edited files come back into a jail
    confine(edited.folder)
    with os.fdopen(0, "rb") as back:
        if back.peek(1):
            tell(edited.replace(back, words[1]))
        else:
            tell(f"{os.path.basename(path)} is unchanged")
    return 0


def save_file(words: List[str]) -> int:
    """``save FILE ORIGIN BEFORE FREE``: put the entry on standard input in a file's place.

    Says the SHA-256 of what was kept.
    """
    saved = Saved(words[0], words[2], int(words[3]))
    # guard: saved files are kept from a jail
    confine(saved.folder)
    with os.fdopen(0, "rb", closefd=False) as source:
        text = saved.replace(source, words[1])
    tell(f"sha256 {saved.kept.hex()}")
    tell(text)
    return 0


def store_entries(words: List[str]) -> int:
    """Keep entries from standard input; prints the names as JSON."""
    kept = Store(words[0], words[1], int(words[2]))
    # guard: files are kept from a jail
    confine(kept.folder)
    with os.fdopen(0, "rb", closefd=False) as source:
        names = keep(source, kept)
    print(json.dumps(names))
    return 0


VERBS = {
    "xdg-open": ask_open,
    "vitrail-open": ask_open,
    "x-www-browser": ask_open,
    "vitrail-copy": ask_copy,
    "vitrail-call": ask_call,
    "vitrail-connect": ask_connect,
    "vitrail-ssh-agent": ssh_agent,
    "vitrail-services": serve_services,
    "vitrail-sanitize": sanitize,
    "vitrail-harmless": harmless,
    "vitrail-print": print_documents,
    "qrexec-client-vm": qrexec_client_vm,
    "serve": serve_call,
    "call-here": call_here,
    "serve-here": serve_here,
    "services": list_services,
    "ssh-keys": ssh_keys,
    "receive": receive,
    "give": give,
    "open-here": open_here,
    "send": send_files,
    "edit": edit_file,
    "save": save_file,
    "store": store_entries,
    "pages": keep_pages,
    "narrowed": narrow,
    "portal": serve_portal,
    "notifications": serve_notifications,
    "tray": serve_tray,
}


def usage() -> NoReturn:
    """Say what there is."""
    raise TransferError(f"usage: vitrail_files.py {'|'.join(VERBS)} …")


def main(argv: List[str]) -> int:
    """Do what the first word says."""
    os.umask(0o077)
    if not argv or argv[0] not in VERBS:
        return reported("", usage)
    return reported(argv[0], lambda: VERBS[argv[0]](argv[1:]))


def go_on(sock: _socket.socket, reader: BufferedReader) -> int:
    """Go on with a call of ``caller`` that was not allowed at once."""
    return reported("vitrail-call", lambda: continue_call(sock.detach(), reader))


def reported(name: str, work: Callable[[], int]) -> int:
    """Return the exit code of a command, whose failure the user is told."""
    try:
        return work()
    except TransferError as error:
        tell(f"vitrail: {error}")
        return error.code
    except OSError as error:
        tell(f"vitrail: {error.filename or name}: {error.strerror}")
        return EXIT_NO_ROOM if error.errno in FULL else EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def words_of(argv: List[str]) -> List[str]:
    """Return the words of a command line, whose program may be a link named as a verb."""
    called_as = os.path.basename(argv[0])
    return [called_as, *argv[1:]] if called_as in VERBS else argv[1:]


if __name__ == "__main__":
    sys.exit(main(words_of(sys.argv)))
