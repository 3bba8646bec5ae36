"""The process between one guest and a security key; it parses the guest's input.

It has three descriptors: the guest's connection, the key's hidraw device and a
socket to the broker, which answers for the user.  A seccomp filter leaves it
reading, writing and waiting, so a process that is taken over can speak with the key
and with its guest, and reach nothing else.

Arguments: the three descriptors, and the nonce in hexadecimal.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from typing import NoReturn

from broker.core.errors import PeerError
from broker.helpers.filters.descriptor_filter import keep_descriptors_only
from broker.jail.security_key.ctaphid import REPORT_BYTES
from broker.jail.security_key.parser import (
    Action,
    Ask,
    RequestOver,
    SecurityKey,
    ToGuest,
    ToKey,
)

_BACKLOG = 64
"""Reports for a guest that does not read; a message has 129 at most, and one
message is on its way."""
_MESSAGE_BYTES = 1024


class Proxy:
    """The loop around ``SecurityKey``."""

    def __init__(
        self, guest: socket.socket, key: int, broker: socket.socket, nonce: bytes
    ) -> None:
        """Set up the proxy between a guest, the key's node and the viewer."""
        self._guest, self._key, self._broker = guest, key, broker
        self._core = SecurityKey(nonce)
        self._from_guest = b""
        self._to_guest: list[bytes] = []

    def run(self) -> None:
        """Carry between guest, key and viewer until one ends.

        Raises PeerError, OSError.
        """
        try:
            self._serve()
        finally:
            # guard: a connection that ends is cancelled at the key
            end = self._core.end()
            self._act([one for one in end if not isinstance(one, RequestOver)])

    def _serve(self) -> None:
        """Poll guest, key and viewer, and act on what they send, until one ends."""
        self._act(self._core.begin())
        poll = select.poll()
        for fd in (self._guest.fileno(), self._key, self._broker.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            events = poll.poll(self._patience())
            self._act(self._core.tick(time.monotonic()))
            for fd, event in events:
                if not self._step(fd, event):
                    return
            wanted = select.POLLIN | (select.POLLOUT if self._to_guest else 0)
            poll.modify(self._guest.fileno(), wanted)

    def _patience(self) -> int | None:
        at = self._core.next_tick()
        if at is None:
            return None
        return max(0, int((at - time.monotonic()) * 1000) + 1)

    def _step(self, fd: int, event: int) -> bool:
        """Handle one ready descriptor; return False if the connection is to end."""
        if fd == self._guest.fileno():
            if event & select.POLLOUT:
                self._flush()
            return not event & ~select.POLLOUT or self._hear_guest()
        if fd == self._key:
            report = os.read(self._key, REPORT_BYTES)
            self._act(self._core.from_key(report))
            return bool(report)
        return self._hear_broker()

    def _hear_guest(self) -> bool:
        """Read reports of the guest and act on them; False at its end."""
        try:
            untrusted = self._guest.recv(REPORT_BYTES * 16)
        except BlockingIOError:
            return True
        self._from_guest += untrusted
        while len(self._from_guest) >= REPORT_BYTES:
            report = self._from_guest[:REPORT_BYTES]
            self._from_guest = self._from_guest[REPORT_BYTES:]
            self._act(self._core.from_guest(report, time.monotonic()))
        return bool(untrusted)

    def _hear_broker(self) -> bool:
        """Read the viewer's answers and act on them; False at its end."""
        data = self._broker.recv(_MESSAGE_BYTES)
        if not data:
            return False
        said = json.loads(data)
        now = time.monotonic()
        self._act(self._core.verdict(said["verdict"], now, allow=said["allow"]))
        return True

    def _act(self, actions: list[Action]) -> None:
        """Carry out actions: send a report to guest or key, or ask the viewer."""
        for action in actions:
            match action:
                case ToGuest(report):
                    self._to_guest.append(report)
                case ToKey(report):
                    # hidraw wants the report's number first; FIDO has none.
                    os.write(self._key, b"\0" + report)
                case Ask():
                    self._say(
                        ask=action.number,
                        what=action.what,
                        host=action.host,
                        digest=action.digest,
                    )
                case RequestOver(number, right):
                    self._say(over=number, right=right)
        self._flush()

    def _say(self, **message: object) -> None:
        self._broker.send(json.dumps(message).encode())

    def _flush(self) -> None:
        """Send queued reports to the guest.  Raises PeerError when it does not read."""
        while self._to_guest:
            try:
                self._guest.send(self._to_guest[0])
            except BlockingIOError:
                break
            # A stream socket may take a part; 64 bytes it takes whole or not,
            # and a guest that makes it otherwise loses its connection.
            self._to_guest.pop(0)
        if len(self._to_guest) > 4 * _BACKLOG:
            raise PeerError("the guest does not read from its security key")


def main(*words: str) -> NoReturn:
    """Filter one connection between a sandbox and a security key until it ends."""
    guest_fd, key, broker_fd = map(int, words[:3])
    nonce = bytes.fromhex(words[3])
    guest = socket.socket(fileno=guest_fd)
    broker = socket.socket(fileno=broker_fd)
    guest.settimeout(0)
    proxy = Proxy(guest, key, broker, nonce)
    keep_descriptors_only()
    code = 0
    try:
        proxy.run()
    except (PeerError, OSError) as error:
        os.write(2, f"vitrail-security-key: {error}\n".encode("ascii", "replace"))
        code = 1
    os._exit(code)  # the interpreter's own end needs system calls we gave up
