"""Between the viewer and a security key's process: each use has its own permit.

A viewer that was taken over may be the guest as well, so its yes alone permits nothing:
with it comes the authority's warrant for what the process has asked about.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

from broker.core.errors import PeerError, RefusedError
from broker.ipc.security_key import ENTER_PIN, READ
from broker.ipc.session.key_uses import (
    ANSWER_BYTES,
    KEY_USE,
    PIN_ENTRY,
    USE_BYTES,
    KeyAnswer,
    KeyUse,
    decode_key_answer,
    decode_use,
)
from broker.ipc.session.permit_warrant import PermitWarrant
from broker.session.warrant_check import WarrantCheck
from policy.names import PIN

_NOW = socket.MSG_DONTWAIT
"""A peer may hold a copy of our end: it reads the message first, or clears O_NONBLOCK."""


class KeyPermits:
    """Passes on questions as they are, and a yes that has its permit."""

    def __init__(
        self,
        check: WarrantCheck,
        connection: PermitWarrant,
        process: socket.socket,
        viewer: socket.socket,
    ) -> None:
        """Set up; ``connection``: the permit for the key itself, ahead of its uses."""
        self._check, self._connection = check, connection
        self._process, self._viewer = process, viewer
        self._asked = KeyUse()
        self._newest = 0.0
        """When the newest warrant that was used was signed."""

    def readers(self) -> Mapping[int, Callable[[], bool]]:
        """Return the function that reads each socket's messages, see ``OrderExchange.hold``.

        They raise PeerError.
        """
        return {
            self._process.fileno(): self._ask,
            self._viewer.fileno(): self._answer_or_end,
        }

    def _answer_or_end(self) -> bool:
        """Pass on an answer of the viewer; at its end, end the key's process."""
        more = self._answer()
        if not more:
            # It cancels what the key works on, and ends.
            with suppress(OSError):
                self._process.shutdown(socket.SHUT_WR)
        return more

    def _ask(self) -> bool:
        """Pass on a question of the key's process to the viewer; False at its end."""
        try:
            untrusted_data = self._process.recv(USE_BYTES, _NOW)
        except ConnectionResetError:  # with an answer unread
            return False
        if untrusted_data:
            with suppress(PeerError):  # the viewer ends the connection
                use = decode_use(untrusted_data)
                self._asked = use if use.ask else self._asked
            with suppress(OSError):  # the viewer has gone, which is read, too
                # guard: a viewer that reads no question delays no end of a permit
                self._viewer.send(untrusted_data, _NOW)
        return bool(untrusted_data)

    def _answer(self) -> bool:
        """Pass on an answer of the viewer, if a permit covers it; False at its end."""
        try:
            data = self._viewer.recv(ANSWER_BYTES, _NOW)
        except ConnectionResetError:
            return False
        if not data:
            return False
        answer = decode_key_answer(data)
        allow = answer.allow and self._is_permitted(answer)
        said = {"verdict": answer.verdict, "allow": allow}
        with suppress(OSError):  # it has ended
            self._process.send(json.dumps(said).encode(), _NOW)
        return True

    def _is_permitted(self, answer: KeyAnswer) -> bool:
        """Return whether an answer's permit covers the use that was asked for."""
        asked = self._asked
        if asked.ask != answer.verdict:
            return False
        if asked.what == READ:
            return True  # by the permit for the connection
        pin = asked.what == ENTER_PIN
        try:
            permit = self._check.permit(answer.warrant, PIN_ENTRY if pin else KEY_USE)
        except RefusedError:
            return False
        # guard: a permit is for one use of a security key
        if permit.at <= self._newest:
            return False
        self._newest = permit.at
        named = permit.sandbox, permit.way, permit.host, permit.about
        way = PIN if pin else asked.what
        about = "" if asked.host else asked.digest
        use = self._connection.sandbox, way, asked.host or None, about
        # guard: a permit for one use of a security key is for no other one
        return named[: 2 if pin else 4] == use[: 2 if pin else 4]
