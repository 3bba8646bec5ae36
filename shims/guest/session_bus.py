"""The session bus of the guest's programs, started when the first one connects.

Our portal and our notification daemon are services of it.  Only in a machine of which
the agent is the first process: elsewhere a session has a separate bus.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Dict

from shims.guest.account import PATH, remove
from shims.guest.loop import log
from shims.guest.started_on_connect import StartedOnConnect, start_on

if TYPE_CHECKING:
    from shims.guest.guest import Guest

BUS_START = (
    "LISTEN_PID=$$ LISTEN_FDS=1 exec dbus-daemon --session --nofork --nopidfile "
    "--nosyslog --address=systemd: 3<&0 </dev/null"
)
"""sd_listen_fds(3): the socket is descriptor 3, and the variables name our process."""


class SessionBus:
    """The bus, from the first program on that connects."""

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest
        self._socket = StartedOnConnect(guest, "session bus", self._run, self._ended)
        self._pid = 0

    @property
    def _path(self) -> str:
        # Where programs look that have no variable for it.
        return os.path.join(self._guest.session_dir, "bus")

    def start(self) -> None:
        """Make the socket, where the guest has a bus to start."""
        path = self._guest.base_environment().get("PATH", PATH)
        if (
            self._guest.machine is None
            or shutil.which("dbus-daemon", path=path) is None
        ):
            return
        listener = socket.socket(socket.AF_UNIX)
        try:
            with self._guest.account.rights():
                remove(self._path)  # of the start before
                listener.bind(self._path)
            listener.listen(64)
        except OSError as error:
            log(f"cannot start the session bus: {error}")
            listener.close()
            return
        self._socket.start(listener)

    def environment(self) -> Dict[str, str]:
        """Return what programs need to find it."""
        if not self._socket.listening:
            return {}
        return {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={self._path}"}

    def stop(self) -> None:
        """Stop listening and terminate the bus daemon."""
        self._socket.stop()
        if self._pid:
            # The loop reaps it, so the pid is not reused until then.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    def _run(self, listener: socket.socket) -> "subprocess.Popen[bytes]":
        """Start the session bus on a listener."""
        process = start_on(listener, self._guest, ["sh", "-c", BUS_START])
        self._pid = process.pid
        return process

    def _ended(self, code: int) -> None:
        self._pid = 0
        if not self._guest.leaving:
            log(f"the session bus ended with code {code}")
