"""The places of a domain's folders: a virtiofsd for each, to which libvirt's QEMU connects.

The domain's XML names the sockets (``domain.with_folders``), which exist from ``prepare``
to ``started``.  They are in a directory that no jailed process can write to; any program
of the user's can connect to them, and the QEMU of a copied domain does.  So a folder is
only mounted in a virtiofsd whose one peer is the leased QEMU, as the kernel says.

The host starts these processes; brokerctl only computes the places, for a domain's XML.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.core.stderr_log import log_stderr
from broker.helpers.process.identity import ProcessIdentity
from broker.host.folders.folder_server import start_folder_server_at
from broker.host.processes.tracked import Tracked, find
from broker.host.vmm.qemu_arguments import FOLDER_TAG
from broker.host.vmm.vm_state import FOLDERS
from broker.net.peers.peer_process import peer_numbers
from policy.limits import SHARED_FOLDERS

_DIRECTORY = "folders"
_PIDFD_GETFD = 438
"""pidfd_getfd(2), which Python does not have; the same number everywhere."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class FolderPlace:
    """A place of a domain: the tag by which its guest mounts it, and its socket."""

    tag: str
    socket: Path


def places_of(paths: Paths, record: str, count: int) -> list[FolderPlace]:
    """Return the first places of a record's domain."""
    directory = paths.runtime / "libvirt" / record / _DIRECTORY
    return [
        FolderPlace(f"{FOLDER_TAG}{number}", directory / str(number))
        for number in range(count)
    ]


def wanted_places(
    paths: Paths, record: str, untrusted_sockets: Mapping[str, str]
) -> dict[int, Path]:
    """Return the places that a domain's XML names, by their numbers.

    ``untrusted_sockets``: those of all its virtiofs devices, by their tags; another
    server's are the user's own.  Raises RefusedError for one of another record.
    """
    own = {
        place.tag: (number, place.socket)
        for number, place in enumerate(places_of(paths, record, SHARED_FOLDERS[1]))
    }
    wanted: dict[int, Path] = {}
    for tag, path in untrusted_sockets.items():
        number, expected = own.get(tag, (-1, None))
        if path == str(expected):
            wanted[number] = Path(path)
            continue
        # guard: a domain names no other domain's folders
        if expected is not None or _is_ours(paths, path):
            raise RefusedError(
                f"the virtiofs device '{printable(tag, 60)}' of the domain has the socket "
                f"{printable(path, 200)}, which is not one of the sandbox '{record}'",
                hint=f"to correct the domain, run 'brokerctl launcher prepare', or remove the device with 'virsh edit'; the record '{record}' says how many it needs",
            )
    return wanted


def _is_ours(paths: Paths, path: str) -> bool:
    """Return whether a path is in the broker's directory."""
    # Names alone: to look at a file may wait for who serves it.
    return Path(os.path.normpath(path)).is_relative_to(paths.runtime)


async def start_places(wanted: Mapping[int, Path]) -> dict[int, Tracked]:
    """Start the virtiofsd of each place.  Raises SetupError, JailError, OSError."""
    servers: dict[int, Tracked] = {}
    try:
        for number, path in wanted.items():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            servers[number] = await start_folder_server_at(
                path, number, folders=len(wanted)
            )
    except BaseException:
        await end_places(servers)
        raise
    return servers


async def end_places(servers: Mapping[int, Tracked]) -> None:
    """End the virtiofsd of each place, and let go of it."""
    for server in servers.values():
        await server.end(0)
        server.close()


def living_places(identities: Mapping[int, ProcessIdentity]) -> dict[int, Tracked]:
    """Return those of an earlier broker that still live."""
    found = {n: find(f"{FOLDERS}{n}", one) for n, one in identities.items()}
    return {n: server for n, server in found.items() if server is not None}


async def served_places(
    servers: Mapping[int, Tracked], leader: int
) -> dict[int, Tracked]:
    """Return those that serve the QEMU of a lease, which the caller holds; end others."""
    kept: dict[int, Tracked] = {}
    strange: dict[int, Tracked] = {}
    for number, server in servers.items():
        try:
            peers = peers_of(server)
            found = f"serves {sorted(peers) or 'no process'}"
        except OSError as error:
            peers, found = set(), f"cannot be looked at ({error})"
        # guard: a domain's folder is served to its own QEMU
        if peers == {leader}:
            kept[number] = server
            continue
        strange[number] = server
        log_stderr(
            f"the virtiofsd of folder place {number} {found}, and should serve QEMU "
            f"{leader}: it is ended, and the domain has no such place until its next start"
        )
    await end_places(strange)
    return kept


def peers_of(server: Tracked) -> set[int]:
    """Return the processes to which a program's sockets are connected (unix(7)).

    QEMU also gives virtiofsd a socket of its own, for what virtiofsd asks it.
    Raises OSError.
    """
    found: set[int] = set()
    for entry in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            if entry.readlink().name.startswith("socket:"):
                found |= _peer(server, int(entry.name))
    return found


def _peer(server: Tracked, number: int) -> set[int]:
    """Return the peer of a socket that a process has; none of one that listens."""
    fd = int(_libc.syscall(_PIDFD_GETFD, server.pidfd, number, 0))
    if fd < 0:
        code = ctypes.get_errno()
        if code == errno.EBADF:  # closed since
            return set()
        raise OSError(code, f"cannot look at virtiofsd's socket: {os.strerror(code)}")
    with socket.socket(fileno=fd) as sock:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return set()
        return {peer_numbers(sock)[0]}
