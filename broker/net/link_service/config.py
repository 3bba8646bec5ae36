"""``link.toml``: the link's address, and the permitted other end.

    listen = "vsock:any:6499"    # the viewer; or connect = "vsock:42:6499", the host
    peer_cid = 2                 # the one CID whose connections the viewer takes
    peer_uid = 1000              # the same for UNIX sockets; default: our own uid
    pieces = 3732                # no larger single write; for a transport that
                                 # loses larger ones (default 0: any size)
    silence_limit = 900          # seconds for which a silent peer keeps the link
    relay = "copy"               # how the pump moves streams: "splice", "copy",
                                 # or "auto", the default, which knows better

The first ``link.toml`` of the configuration directories holds; without one
the viewer listens as above, and the host needs the address of its viewer.

The host and the viewer read it at their start, brokerctl before it starts a broker, a
session child to report its mistakes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import SetupError
from broker.core.limits import link as limits
from broker.core.paths import Paths, read_config
from broker.core.services import CID_ANY, LINK_PORT
from broker.ipc.pump import RelayMode
from broker.net.addresses import Endpoint, VsockEndpoint, parse_connect, parse_listen
from broker.net.link.wire_types import Role

HOST_CID = 2


class _File(msgspec.Struct, forbid_unknown_fields=True):
    listen: str = ""
    connect: str = ""
    peer_cid: int = HOST_CID
    peer_uid: int | None = None
    pieces: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    silence_limit: Annotated[
        float,
        msgspec.Meta(
            ge=limits.LINK_KEPT_LEAST_SECONDS, le=limits.LINK_KEPT_MOST_SECONDS
        ),
    ] = limits.LINK_KEPT_SECONDS
    relay: RelayMode = RelayMode.AUTO


@dataclass(frozen=True)
class LinkConfig:
    """Where one end of the link is, and the one peer that the kernel must name."""

    endpoint: Endpoint
    """The viewer listens there, the host connects to it."""
    peer_cid: int = HOST_CID
    peer_uid: int = -1
    pieces: int = 0
    """No single write of a stream is larger, in bytes; 0: any."""
    silence_limit: float = limits.LINK_KEPT_SECONDS
    """Seconds for which a silent peer keeps the link."""
    relay: RelayMode = RelayMode.AUTO
    """How the pump moves streams, both directions alike."""

    @property
    def uid(self) -> int:
        """The user whose processes may be at the other end of a UNIX socket."""
        return os.geteuid() if self.peer_uid < 0 else self.peer_uid

    @property
    def mode(self) -> int:
        """Return the mode of the viewer's UNIX socket, by who may connect.

        Another user's broker must be able to connect; which user it is says the kernel
        at each connection, before a byte is read.  The directory says who comes so far.
        """
        # guard: the link's socket is another user's only where one is named
        return 0o600 if self.uid == os.geteuid() else 0o666


def load_link_config(
    paths: Paths, role: Role, *, endpoint: str = "", peer_cid: int | None = None
) -> LinkConfig:
    """Read ``link.toml``; ``endpoint`` and ``peer_cid`` take precedence over the file.

    Raises SetupError with the file's name.
    """
    file, where = _read(paths)
    if role is Role.VIEWER:
        text = endpoint or file.listen
        found = parse_listen(text) if text else VsockEndpoint(CID_ANY, LINK_PORT)
    else:
        text = endpoint or file.connect
        if not text:
            raise SetupError(
                "the address of the viewer is not configured",
                where=where,
                hint=f'set connect = "vsock:CID:{LINK_PORT}" in link.toml '
                "(the CID of the viewer's machine), or pass --connect",
            )
        found = parse_connect(text)
    uid = -1 if file.peer_uid is None else file.peer_uid
    cid = file.peer_cid if peer_cid is None else peer_cid
    return LinkConfig(found, cid, uid, file.pieces, file.silence_limit, file.relay)


def declared_role(paths: Paths) -> Role | None:
    """Return the role that ``link.toml`` gives this machine; None without a file.

    The host's says where to connect; the viewer's may leave out everything.
    Raises SetupError for a file that is damaged or says both.
    """
    file, where = _read(paths)
    if not Path(where).exists():
        return None
    if file.connect and file.listen:
        raise SetupError(
            "connect (for a host) and listen (for a viewer) are both set",
            where=where,
            hint="keep the key for the role of this machine",
        )
    return Role.HOST if file.connect else Role.VIEWER


def _read(paths: Paths) -> tuple[_File, str]:
    """Read the first ``link.toml`` of the directories; return it and its path.

    Raises SetupError for invalid settings.
    """
    for directory in paths.config:
        path = directory / "link.toml"
        try:
            text = read_config(path)
        except FileNotFoundError:
            continue
        try:
            return msgspec.toml.decode(text, type=_File), str(path)
        except UNREADABLE as error:
            known = ", ".join(_File.__struct_fields__)
            raise SetupError(
                f"invalid settings: {error}",
                where=str(path),
                hint=f"use only the keys {known}",
            ) from error
    return _File(), str(paths.config[0] / "link.toml")
