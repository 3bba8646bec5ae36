"""The session bus of the guest's programs, started when the first one connects.

Our portal and our notification daemon are services of it.  Only in a machine of which
the agent is the first process: elsewhere a session has a bus of its own.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Dict, Optional

from shims.guest.account import PATH, remove
from shims.guest.loop import log

if TYPE_CHECKING:
    from shims.guest.guest import Guest

BUS_PAUSE_SECONDS = 1.0
BUS_START = (
    "LISTEN_PID=$$ LISTEN_FDS=1 exec dbus-daemon --session --nofork --nopidfile "
    "--nosyslog --address=systemd: 3<&0 </dev/null"
)
"""sd_listen_fds(3): the socket is descriptor 3, and the variables name our process."""


class SessionBus:
    """Waits for the first program that connects; until then no bus runs."""

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest
        self._listener: Optional[socket.socket] = None
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
            log(f"no session bus: {error}")
            listener.close()
            return
        self._listener = listener
        self._wait()

    def environment(self) -> Dict[str, str]:
        """Return what programs need to find it."""
        if self._listener is None:
            return {}
        return {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={self._path}"}

    def stop(self) -> None:
        """End the bus."""
        if self._listener is not None:
            self._guest.loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._pid:
            # The loop reaps it, so the number is its own until then.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)

    def _wait(self) -> None:
        if self._listener is not None and not self._guest.leaving:
            fd = self._listener.fileno()
            self._guest.loop.watch(fd, selectors.EVENT_READ, lambda _: self._begin())

    def _begin(self) -> None:
        listener, guest = self._listener, self._guest
        assert listener is not None
        guest.loop.forget(listener.fileno())
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            process = guest.account.start(
                ["sh", "-c", BUS_START],
                env=guest.base_environment(),
                stdin=listener.fileno(),
                stdout=null,
                stderr=null,
                cwd="/",
            )
        except (OSError, subprocess.SubprocessError) as error:
            log(f"session bus: {error}")
            guest.loop.later(BUS_PAUSE_SECONDS, self._wait)
            return
        finally:
            os.close(null)
        self._pid = process.pid
        guest.loop.child(process, self._ended)

    def _ended(self, code: int) -> None:
        """Wait for the next program, which gets a new bus."""
        self._pid = 0
        if not self._guest.leaving:
            log(f"the session bus ended with {code}")
        self._guest.loop.later(BUS_PAUSE_SECONDS, self._wait)
