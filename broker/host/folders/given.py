"""Directories of the user's that session children have given to the host.

They come on a socket that the viewer does not have (``ipc.session.folder_orders``).  The
viewer names one by its ticket, so it can have no directory mounted that the user or a
record has not shared with this very sandbox, and none twice.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from broker.core.errors import RefusedError
from broker.core.files.opened_folder import OpenedFolder
from broker.core.limits import transfer as limits
from broker.helpers.process.spawn import has_ended
from broker.ipc.session.folder_orders import (
    FOR_HOST_BYTES,
    FolderForHost,
    read_for_host,
)
from broker.wire import fdpass

_KEPT = 4 * limits.FOLDERS_PER_SANDBOX


class GivenFolders:
    """Folders that are not mounted yet."""

    def __init__(self, sock: socket.socket) -> None:
        """``sock``: where they come; this process is its only reader."""
        sock.setblocking(False)  # noqa: FBT003 -- the socket's own
        self._sock = sock
        self._given: dict[bytes, tuple[FolderForHost, OpenedFolder, int]] = {}

    def take(
        self, untrusted_ticket: bytes, sandbox: str
    ) -> tuple[OpenedFolder, bool, int]:
        """Return a folder that a session child sent, and whether it is writable.

        And the pidfd of that child, whose end is the permission's.
        Raises RefusedError if none was given for this sandbox.
        """
        self._receive()
        found = self._given.get(untrusted_ticket)
        # guard: a folder goes to the sandbox that it was shared with
        if found is None or found[0].sandbox != sandbox:
            raise RefusedError("this folder is not shared with this sandbox")
        del self._given[untrusted_ticket]
        message, folder, holder = found
        # guard: a folder is not mounted once its permit has ended
        if has_ended(holder):
            folder.close()
            os.close(holder)
            raise RefusedError("this folder is no longer shared with this sandbox")
        return folder, message.write, holder

    def _receive(self) -> None:
        """Receive the folders that session children have sent, without waiting."""
        while True:
            try:
                got = fdpass.receive(self._sock, FOR_HOST_BYTES, 2)
            except BlockingIOError:
                return
            if not got.data:
                return  # the starter has ended, and the broker ends with it
            message = read_for_host(got.data)
            path = Path(os.fsdecode(message.path))
            fd, holder = got.fds
            opened = OpenedFolder(path, fd, message.at, message.tag)
            self._given[message.ticket] = message, opened, holder
            # guard: folders that are never mounted fill no memory
            if len(self._given) > _KEPT:
                _, folder, holder = self._given.pop(next(iter(self._given)))
                folder.close()
                os.close(holder)
