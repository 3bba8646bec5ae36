"""The printer of the guest's programs that ask CUPS for one, started when one does.

The files program serves it (``shims/files/printing_queue.py``).  A program that the
broker starts has its socket where a rule may allow to print: elsewhere the guest's own
CUPS stays in its place.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Dict

from shims.guest.account import remove
from shims.guest.loop import log
from shims.guest.own_process import FILES_PROGRAM
from shims.guest.started_on_connect import StartedOnConnect, start_on

if TYPE_CHECKING:
    import subprocess

    from shims.guest.guest import Guest

PRINTER_BY_RULE = "VITRAIL_PRINTER"
"""The variable by which the broker says that a rule may allow to print."""
PRINTER_SOCKET = "vitrail-printer"
PRINTER_CLIENTS = 16


class PrinterSocket:
    """The socket, and the program that a first client starts."""

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest
        self._path = os.path.join(guest.session_dir, PRINTER_SOCKET)
        self._socket = StartedOnConnect(guest, "printing", self._run)

    def start(self) -> None:
        """Create and watch the printer's socket; log a failure."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            with self._guest.account.rights():
                remove(self._path)  # of the start before
                listener.bind(self._path)
            listener.listen(PRINTER_CLIENTS)
        except OSError as error:
            log(f"cannot offer a printer: {error}")
            listener.close()
            return
        self._socket.start(listener)

    def stop(self) -> None:
        """Stop listening."""
        self._socket.stop()

    def settle(self, env: "Dict[str, str]") -> None:
        """Name the socket in a program's environment, where a rule may allow to print."""
        if env.pop(PRINTER_BY_RULE, "") and self._socket.listening:
            # Its own session may have a printer.
            env.setdefault("CUPS_SERVER", self._path)

    def _run(self, listener: socket.socket) -> "subprocess.Popen[bytes]":
        """Start the printer's program on a listener."""
        words = [FILES_PROGRAM, "printer", "-"]
        return start_on(listener, self._guest, words)
