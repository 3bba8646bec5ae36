"""A socket that a program takes over when the first client connects."""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
from typing import TYPE_CHECKING, Callable, List, Optional

from shims.guest.loop import log

if TYPE_CHECKING:
    from shims.guest.guest import Guest

RESTART_PAUSE_SECONDS = 1.0


class StartedOnConnect:
    """Starts the program at the first connection, and a new one after its end.

    The program gets the listening socket and accepts that connection itself; until
    then nothing runs for it.
    """

    def __init__(
        self,
        guest: "Guest",
        what: str,
        run: "Callable[[socket.socket], subprocess.Popen[bytes]]",
        ended: "Callable[[int], None]" = lambda _code: None,
    ) -> None:
        """Set up; ``run`` starts the program; it raises OSError, SubprocessError.

        ``what`` names it in the log; ``ended`` gets its exit code.
        """
        self._guest = guest
        self._what = what
        self._run = run
        self._told = ended
        self._listener: Optional[socket.socket] = None

    @property
    def listening(self) -> bool:
        """Return whether there is a socket."""
        return self._listener is not None

    def start(self, listener: socket.socket) -> None:
        """Wait for the first client; takes the socket over."""
        self._listener = listener
        self._wait()

    def stop(self) -> None:
        """Close the socket; a program that runs has it still."""
        if self._listener is not None:
            self._guest.loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _wait(self) -> None:
        if self._listener is not None and not self._guest.leaving:
            fd = self._listener.fileno()
            self._guest.loop.watch(fd, selectors.EVENT_READ, lambda _: self._begin())

    def _begin(self) -> None:
        """Start the program on the listener's first client."""
        listener = self._listener
        assert listener is not None
        self._guest.loop.forget(listener.fileno())
        try:
            process = self._run(listener)
        except (OSError, subprocess.SubprocessError) as error:
            log(f"{self._what}: {error}")
            self._guest.loop.later(RESTART_PAUSE_SECONDS, self._wait)
            return
        self._guest.loop.child(process, self._ended)

    def _ended(self, code: int) -> None:
        """Wait for the next client, which gets a new program."""
        self._told(code)
        self._guest.loop.later(RESTART_PAUSE_SECONDS, self._wait)


def start_on(
    listener: socket.socket, guest: "Guest", argv: "List[str]"
) -> "subprocess.Popen[bytes]":
    """Start a user's program on a listener, its standard input; without output."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        return guest.account.start(
            argv,
            env=guest.base_environment(),
            stdin=listener.fileno(),
            stdout=null,
            stderr=null,
            cwd="/",
        )
    finally:
        os.close(null)
