"""The broker's ports: where they are, and a connection to one.

With modules of C alone, as ``caller`` needs: importing ``socket`` takes as long as
Python's own start.

Programs of the sandbox run it; the broker has no part of it.
"""

from __future__ import annotations

import _socket
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

HOST_CID = 2
# As in shims/guest/protocol.py: there in a machine without AF_VSOCK.
BOX_SOCKETS = "/run/vitrail"  # a container's or box's, by the service's name
PORT_SOCKETS = "/run/vitrail/port"
SECRET_FILE = "/run/vitrail/launch-secret"
PORTS = {
    "VITRAIL_OPEN_URL": 6510,
    "VITRAIL_OPEN_FILE": 6511,
    "VITRAIL_COPY": 6512,
    "VITRAIL_CALL": 6513,
}
SERVICES = {
    "VITRAIL_OPEN_URL": "vitrail.OpenURL",
    "VITRAIL_OPEN_FILE": "vitrail.OpenFile",
    "VITRAIL_COPY": "vitrail.FileCopy",
    "VITRAIL_CALL": "vitrail.Call",
}


def standard_address(variable: str) -> str:
    """Return the address of one of the broker's ports, by its variable."""
    path = f"{BOX_SOCKETS}/{SERVICES[variable]}"
    if os.path.exists(path):
        return f"unix:{path}"
    port = PORTS[variable]
    path = f"{PORT_SOCKETS}/{port}"
    return f"port:{path}" if os.path.exists(path) else f"vsock:{HOST_CID}:{port}"


def door_address(variable: str) -> str:
    """Return the address of a port: of the environment, or else the standard one."""
    return os.environ.get(variable) or standard_address(variable)


def open_door(address: str) -> _socket.socket:
    """Connect to a port of the broker.  Raises OSError."""
    kind, _, rest = address.partition(":")
    family = _socket.AF_VSOCK if kind == "vsock" else _socket.AF_UNIX
    target: Any = rest
    if kind == "vsock":
        cid, port = rest.split(":")
        target = (int(cid), int(port))
    made = _socket.socket(family, _socket.SOCK_STREAM)
    try:
        made.connect(target)
        if kind == "port":
            read_answer(made)
    except OSError:
        made.close()
        raise
    return made


def read_answer(sock: _socket.socket) -> None:
    """Read the broker's answer, as ``shims/guest/address.py``.  Raises OSError."""
    answer = sock.recv(1)
    code = answer[0] if answer else errno.ECONNRESET
    if code:
        raise OSError(code, os.strerror(code))
