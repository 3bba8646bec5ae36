"""The ssh agent's socket of the guest's programs, whose keys are elsewhere, by rule.

Each connection is a call to the broker, by a copy of our process.  Nothing runs for it
before, and a program that the broker starts has the socket where a rule leads to a key.
"""

from __future__ import annotations

import os
import selectors
import socket
from typing import TYPE_CHECKING, Dict

from shims.guest.account import remove
from shims.guest.loop import log
from shims.guest.own_process import FILES_PROGRAM, ForkedTool, fork_tool

if TYPE_CHECKING:
    from shims.guest.guest import Guest

KEYS_BY_RULE = "VITRAIL_SSH_KEYS"
"""The variable by which the broker says that a rule leads to a key."""
KEYS_SOCKET = "vitrail-ssh-keys"  # as in shims/files/ssh_agent.py
KEYS_AT_ONCE = 16
KEYS_PAUSE_SECONDS = 1.0


class KeysSocket:
    """The socket, and the connections that are led to the broker."""

    def __init__(self, guest: "Guest") -> None:
        self._guest = guest
        self._path = os.path.join(guest.session_dir, KEYS_SOCKET)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listening = False
        self._running = 0

    def start(self) -> None:
        """Create and watch the ssh agent's socket; log a failure."""
        try:
            with self._guest.account.rights():
                remove(self._path)  # of the start before
                self._listener.bind(self._path)
            self._listener.listen(KEYS_AT_ONCE)
            self._listener.settimeout(0)
        except OSError as error:
            log(f"cannot offer ssh keys: {error}")
            return
        self._listening = True
        self._watch()

    def settle(self, env: "Dict[str, str]") -> None:
        """Name the socket in a program's environment, where a rule leads to a key."""
        if env.pop(KEYS_BY_RULE, "") and self._listening:
            # Its own session may have an agent.
            env.setdefault("SSH_AUTH_SOCK", self._path)

    def _watch(self) -> None:
        fd = self._listener.fileno()
        self._guest.loop.watch(fd, selectors.EVENT_READ, lambda _: self._accept())

    def _accept(self) -> None:
        """Accept a program; run the files program to carry its connection."""
        try:
            conn, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        guest = self._guest
        with conn:
            conn.settimeout(None)
            words = [FILES_PROGRAM, "ssh-keys"]
            streams = (conn.fileno(), 2, 2)
            env = guest.base_environment()
            runtime = guest.settings.runtime
            try:
                pid = fork_tool(ForkedTool(guest.account, runtime, words, env, streams))
            except OSError as error:
                self._fail(error)
                return
        self._running += 1
        if self._running == KEYS_AT_ONCE:
            guest.loop.forget(self._listener.fileno())
        guest.loop.child_number(pid, lambda _code: self._ended())

    def _ended(self) -> None:
        self._running -= 1
        if self._running == KEYS_AT_ONCE - 1:
            self._watch()

    def _fail(self, error: OSError) -> None:
        """Wait before the next one: there is no room for a process, or a descriptor."""
        log(f"ssh keys: {error}")
        self._guest.loop.forget(self._listener.fileno())
        self._guest.loop.later(KEYS_PAUSE_SECONDS, self._watch)
