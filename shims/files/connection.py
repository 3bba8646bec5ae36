"""A connection to one of the broker's ports for files and links."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any, BinaryIO, Dict

from shims.files.launch import prove
from shims.files.protocol import TransferError, read_message

HOST_CID = 2
PORTS = {"VITRAIL_OPEN_URL": 6510, "VITRAIL_OPEN_FILE": 6511, "VITRAIL_COPY": 6512}
SERVICES = {
    "VITRAIL_OPEN_URL": "vitrail.OpenURL",
    "VITRAIL_OPEN_FILE": "vitrail.OpenFile",
    "VITRAIL_COPY": "vitrail.FileCopy",
}
# A write of more bytes becomes several packets in newer kernels, and
# vhost-device-vsock 0.3 loses all but the first.
PIECE_BYTES = 28672


class Connection:
    """A connection to the broker: messages, and raw bytes in small pieces."""

    def __init__(self, variable: str) -> None:
        address = os.environ.get(variable) or f"vsock:{HOST_CID}:{PORTS[variable]}"
        kind, _, rest = address.partition(":")
        family = socket.AF_UNIX if kind == "unix" else socket.AF_VSOCK
        target: Any = rest
        if kind != "unix":
            cid, port = rest.split(":")
            target = (int(cid), int(port))
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.socket.connect(target)
        except OSError as error:
            raise TransferError(f"no broker at {address}: {error.strerror}") from None
        try:
            prove(self.socket, SERVICES[variable])
        except TransferError:
            self.socket.close()
            raise
        self.reader: BinaryIO = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            for start in range(0, len(data), PIECE_BYTES):
                self.socket.sendall(data[start : start + PIECE_BYTES])
        except OSError:
            # It has hung up; its message before that is the reason.
            raise TransferError(self.refusal() or "the broker broke it off") from None

    def refusal(self) -> str:
        """Return why the broker has ended it, if it says."""
        try:
            while True:
                message = read_message(self.reader)
                if message["type"] == "refused":
                    return str(message.get("reason"))
        except (TransferError, OSError):
            return ""

    def wait(self, *wanted: str) -> Dict[str, Any]:
        """Return the next message of these types; report progress meanwhile."""
        while True:
            message = read_message(self.reader)
            if message["type"] in wanted:
                return message
            if message["type"] == "refused":
                raise TransferError(str(message.get("reason")))
            if message["type"] == "wait":
                tell(str(message.get("what")))


def tell(text: str) -> None:
    """Print a line for the person; control characters do not reach the terminal."""
    sys.stderr.write("".join(c if c.isprintable() else "?" for c in text) + "\n")
