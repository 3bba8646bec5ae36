"""A connection to one of the broker's ports for files and links."""

from __future__ import annotations

import errno
import io
import os
import select
import socket
from typing import TYPE_CHECKING

from shims.files.doors import SERVICES, door_address
from shims.files.frames import PIECE_BYTES, READ_AHEAD_BYTES
from shims.files.launch import open_proved
from shims.files.protocol import COPY_BYTES, TransferError, read_message, tell

if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

NO_SENDFILE = (errno.EINVAL, errno.ENOSYS)
STEP_BYTES = 1 << 20  # by sendfile(2), between two looks at the progress bar
# Before it, sendfile(2) made a packet of each page.
WHOLE_PACKETS = (6, 5)


def kernel_release() -> Tuple[int, ...]:
    """Return the first two numbers of the kernel's release."""
    numbers = os.uname().release.split("-")[0].split(".")[:2]
    return tuple(int(number) if number.isdigit() else 0 for number in numbers)


def connect(variable: str) -> socket.socket:
    """Connect to the port of a service.  Raises TransferError."""
    address = door_address(variable)
    try:
        return open_proved(address, SERVICES[variable])
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise TransferError(f"cannot connect to {address}: {why}") from None


class BrokerConnection:
    """A connection to the broker: messages, and raw bytes in small pieces."""

    def __init__(self, variable: str, given: Optional[socket.socket] = None) -> None:
        """Connect; ``given``: the connection, where the broker has made it."""
        self.socket = given or connect(variable)
        vsock = self.socket.family == socket.AF_VSOCK
        self._copies = vsock and kernel_release() < WHOLE_PACKETS
        """Whether contents pass through this program's memory."""
        self._step = PIECE_BYTES if vsock else STEP_BYTES
        """The most of one sendfile(2)."""
        self._queued = bytearray()
        self._answers: List[Dict[str, Any]] = []  # read while it was sending
        self.reader: io.BufferedReader = io.BufferedReader(
            self.socket.makefile("rb", 0), READ_AHEAD_BYTES
        )

    def send(self, data: bytes) -> None:
        """Send all of it, after everything that is queued."""
        self._queued += data
        self._send_queued(len(self._queued))

    def queue(self, data: bytes) -> None:
        """Queue contents; send them when a piece of PIECE_BYTES is full.

        Raises TransferError if the broker has refused the contents meanwhile.
        """
        self._queued += data
        if len(self._queued) >= PIECE_BYTES:
            self._send_queued(len(self._queued) // PIECE_BYTES * PIECE_BYTES)
            self._heed()

    def _send_queued(self, size: int) -> None:
        """Send queued contents.

        Raises TransferError when the broker has ended them.
        """
        try:
            with memoryview(self._queued)[:size] as whole:
                for start in range(0, size, PIECE_BYTES):
                    self.socket.sendall(whole[start : start + PIECE_BYTES])
        except OSError:
            raise self._broken_off() from None
        del self._queued[:size]

    def _heed(self) -> None:
        """Raise TransferError where the broker has refused the rest.

        Only between contents that are sent: after the answer to a request for files
        come their entries, which ``wait`` would not pass on.
        """
        if not select.select([self.socket], [], [], 0)[0]:
            return
        self._answers.append(read_message(self.reader))
        if self._answers[-1]["type"] == "refused":
            raise TransferError(str(self._answers[-1].get("reason")))

    def send_file(self, fd: int, most: int) -> int:
        """Send up to ``most`` bytes of a file; returns how many, 0 at its end.

        The last of them may still be queued.
        """
        if not self._copies and most >= PIECE_BYTES:
            self._send_queued(len(self._queued))
            try:
                sent = self._send_pages(fd, min(most, STEP_BYTES))
            except ConnectionError:
                raise self._broken_off() from None
            except OSError as error:
                if error.errno not in NO_SENDFILE:
                    raise
                self._copies = True  # a file system without sendfile(2)
            else:
                self._heed()
                return sent
        data = os.read(fd, min(most, COPY_BYTES))
        self.queue(data)
        return len(data)

    def _send_pages(self, fd: int, most: int) -> int:
        """Send from the page cache, in pieces that no transport loses a part of."""
        done, out = 0, self.socket.fileno()
        while done < most:
            try:
                # guard: no larger packet than a transport carries
                sent = os.sendfile(out, fd, None, min(most - done, self._step))
            except OSError as error:
                if done and error.errno in NO_SENDFILE:
                    break  # what was sent counts; the next call raises it
                raise
            if not sent:
                break
            done += sent
        return done

    def _broken_off(self) -> TransferError:
        # It has hung up; its message before that is the reason.
        return TransferError(self.refusal() or "the broker closed the connection")

    def refusal(self) -> str:
        """Read the broker's reason for ending the connection, if it gives one."""
        try:
            while True:
                message = read_message(self.reader)
                if message["type"] == "refused":
                    return str(message.get("reason"))
        except (TransferError, OSError):
            return ""

    def wait(self, *wanted: str) -> Dict[str, Any]:
        """Wait for the next message of these types; report progress meanwhile.

        Raises TransferError for a refusal.
        """
        self._send_queued(len(self._queued))
        while True:
            message = self._answers.pop(0) if self._answers else None
            message = message or read_message(self.reader)
            if message["type"] in wanted:
                return message
            if message["type"] == "refused":
                raise TransferError(str(message.get("reason")))
            if message["type"] == "wait":
                tell(str(message.get("what")))
