"""The commands of this program, by its first argument."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from shims.files.asking import ask_copy, ask_open, give
from shims.files.calling import (
    ask_call,
    call_here,
    continue_call,
    serve_call,
)
from shims.files.notifications import serve_notifications
from shims.files.own_files import OWN_VERBS
from shims.files.portal import serve_portal
from shims.files.ports import ask_connect
from shims.files.printing import print_documents
from shims.files.printing_queue import serve_printer
from shims.files.protocol import TransferError, reported
from shims.files.qrexec import qrexec_client_vm
from shims.files.receiving import open_here, receive
from shims.files.sanitizing import harmless, sanitize
from shims.files.services import list_services
from shims.files.serving import serve_services
from shims.files.ssh_agent import ssh_agent, ssh_keys
from shims.files.tray import serve_tray

if TYPE_CHECKING:
    import _socket
    from io import BufferedReader
    from typing import List, NoReturn


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
    "printer": serve_printer,
    "qrexec-client-vm": qrexec_client_vm,
    "serve": serve_call,
    "call-here": call_here,
    "services": list_services,
    "ssh-keys": ssh_keys,
    "receive": receive,
    "give": give,
    "open-here": open_here,
    **OWN_VERBS,
    "portal": serve_portal,
    "notifications": serve_notifications,
    "tray": serve_tray,
}


def usage() -> NoReturn:
    """Raise TransferError with the commands of this program."""
    raise TransferError(f"usage: vitrail_files.py {'|'.join(VERBS)} …")


def main(argv: List[str]) -> int:
    """Do what the first word says."""
    os.umask(0o077)
    if not argv or argv[0] not in VERBS:
        return reported("", usage)
    return reported(argv[0], lambda: VERBS[argv[0]](argv[1:]))


def go_on(sock: _socket.socket, reader: BufferedReader) -> int:
    """Take over a call that ``caller.py`` began and whose answer it did not wait for."""
    return reported("vitrail-call", lambda: continue_call(sock.detach(), reader))


def words_of(argv: List[str]) -> List[str]:
    """Return the words of a command line, whose program may be a link named as a verb."""
    called_as = os.path.basename(argv[0])
    return [called_as, *argv[1:]] if called_as in VERBS else argv[1:]


if __name__ == "__main__":
    sys.exit(main(words_of(sys.argv)))
