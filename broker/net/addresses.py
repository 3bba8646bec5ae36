"""Where a stream comes from and goes to, as people write it.

``unix:PATH``          a UNIX stream socket;
``vsock:CID:PORT``     AF_VSOCK (vsock(7)); to listen also ``vsock:PORT`` and
                       ``vsock:any:PORT``;
``hybrid:PATH:PORT``   a VMM's vsock offered as UNIX sockets, as Firecracker,
                       Cloud Hypervisor and vhost-device-vsock do.

Hybrid vsock: what a guest sends to the host's PORT arrives at ``PATH_PORT``,
so that is where we listen; to reach the guest's PORT one connects to PATH,
writes ``CONNECT PORT`` and a newline in one piece, and may not send anything
else before a line ``OK <number>`` has come.  The number means nothing to us.
A hybrid vsock has no half-close: the first side's end is both sides' end.

Host, viewer and brokerctl parse such addresses and create their sockets; a session child
uses ``UnixEndpoint`` and ``explain_connect`` only.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.services import CID_ANY

_FORMS = "unix:PATH, vsock:CID:PORT or hybrid:PATH:PORT"
_U32 = 0xFFFFFFFF


@dataclass(frozen=True)
class UnixEndpoint:
    """A UNIX stream socket at a path."""

    path: Path

    @override
    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True)
class VsockEndpoint:
    """A port of a vsock address; ``CID_ANY`` only to listen."""

    cid: int
    port: int

    @override
    def __str__(self) -> str:
        cid = "any" if self.cid == CID_ANY else self.cid
        return f"vsock:{cid}:{self.port}"


@dataclass(frozen=True)
class HybridEndpoint:
    """A port at a VMM's UNIX socket."""

    path: Path
    port: int

    @override
    def __str__(self) -> str:
        return f"hybrid:{self.path}:{self.port}"

    @property
    def listening_path(self) -> Path:
        """Where the VMM connects to for the guest's connections to this port."""
        return self.path.with_name(f"{self.path.name}_{self.port}")


Endpoint = UnixEndpoint | VsockEndpoint | HybridEndpoint


# -- reading what a user wrote -----------------------------------------------


def parse_connect(text: str) -> Endpoint:
    """Parse the text of an endpoint to connect to.

    Raises SetupError that says the forms.
    """
    endpoint = _parse(text)
    if isinstance(endpoint, VsockEndpoint) and endpoint.cid == CID_ANY:
        raise SetupError(
            f"{text!r} does not name a machine to connect to",
            hint="write vsock:CID:PORT; CID 2 is the host, seen from a guest",
        )
    return endpoint


def parse_listen(text: str) -> Endpoint:
    """Return the endpoint to listen on.  Raises SetupError that says the forms."""
    return _parse(text)


def _parse(text: str) -> Endpoint:
    """Parse an endpoint's text.  Raises SetupError that says the valid forms."""
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return UnixEndpoint(_path(text, rest))
    if kind == "vsock":
        cid, _, port = rest.rpartition(":")
        number = CID_ANY if cid in {"", "any"} else _number(text, "CID", cid)
        return VsockEndpoint(number, _number(text, "port", port))
    if kind == "hybrid":
        path, _, port = rest.rpartition(":")
        endpoint = HybridEndpoint(_path(text, path), _number(text, "port", port))
        _path(text, str(endpoint.listening_path))
        return endpoint
    raise SetupError(f"{text!r} is not an endpoint", hint=f"write {_FORMS}")


def _number(text: str, what: str, digits: str) -> int:
    """Parse a CID or port.  Raises SetupError that quotes the endpoint's text."""
    if re.fullmatch(r"[0-9]{1,10}", digits) and int(digits) < _U32:
        return int(digits)
    raise SetupError(
        f"{text!r}: {digits!r} is not a {what}",
        hint=f"write {_FORMS}; CID and port are numbers below {_U32}",
    )


def _path(text: str, path: str) -> Path:
    """Check an endpoint's path.  Raises SetupError without one or for one too long."""
    if not path or "\0" in path:
        raise SetupError(f"{text!r} does not contain a path", hint=f"write {_FORMS}")
    if len(os.fsencode(path)) > limits.SOCKET_PATH_BYTES:
        raise SetupError(
            f"{path!r} is too long for a UNIX socket ({len(os.fsencode(path))} bytes)",
            hint=f"use a path of at most {limits.SOCKET_PATH_BYTES} bytes, "
            "or one relative to the current directory",
        )
    return Path(path)


def new_socket(family: socket.AddressFamily, endpoint: Endpoint) -> socket.socket:
    """Return a non-blocking stream socket.  Raises SetupError or UpstreamError."""
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _no_socket(endpoint, error) from error
    sock.settimeout(0)
    return sock


def _no_socket(endpoint: Endpoint, error: OSError) -> VitrailError:
    """Return the error for a socket(2) that failed, with what to do."""
    if error.errno == errno.EAFNOSUPPORT:
        return SetupError(
            f"{endpoint}: this kernel has no vsock",
            hint="run 'sudo modprobe vsock'; for further checks, run 'brokerctl doctor'",
        )
    return UpstreamError(
        f"{endpoint}: cannot create a socket: {error.strerror}",
        hint="raise the limit on open files ('ulimit -n')",
    )


def explain_connect(endpoint: Endpoint, error: OSError) -> UpstreamError:
    """Return a failed connect(2) as a sentence with what to do."""
    hint = {
        errno.ENOENT: "start the program that listens there, or correct the path",
        errno.ECONNREFUSED: "start the program; no process listens on the socket",
        errno.EACCES: "use a socket in a directory that you may access, and that you may write to",
        errno.ENODEV: "load vhost_vsock on a host, or add a vsock device to a guest; this machine has none",
        errno.ENETUNREACH: "check the CID, and whether this machine has a vsock device",
        errno.ECONNRESET: "check whether a program on that machine listens on that port",
        errno.ETIMEDOUT: "check whether the machine with that CID is running",
    }.get(error.errno or 0, "")
    return UpstreamError(f"cannot connect to {endpoint}: {error.strerror}", hint=hint)
