"""The two ways a guest gets a vsock: the kernel's, and our process.

``/dev/vhost-vsock``: real AF_VSOCK.  We open it, set the CID ourselves and
pass the descriptor to QEMU; a duplicate stays with us until every stream of
the lease is cut, so that no process can take a leased CID in between.

``vhost-device-vsock``: a vhost-user process per machine, for hosts without
the device.  The guest's connections arrive at UNIX sockets (hybrid vsock, as
Firecracker does it): ``<uds>_<port>``.  The process would serve the next QEMU
under the same path and CID, so it is ended with its machine.

The host uses either for a machine, and brokerctl for a machine of a script; ``doctor``
only reads variables.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from typing_extensions import override

from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.services import NEVER_PEERS
from broker.host.processes.ready import connect_when_ready
from broker.host.processes.tracked import Tracked

DEVICE = Path("/dev/vhost-vsock")
# _IOW(VHOST_VIRTIO 0xAF, 0x60, __u64), linux/vhost.h
VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60

HELPER = "vhost-device-vsock"
"""Its role in messages and in the state file."""
PORT_MUX = "port-mux"
"""The role of the program that takes its place, see ``port_mux``."""

VSOCK_DIRECTORY = "vsock"
"""Below the sandbox's runtime directory: where the hybrid sockets are."""
UDS_NAME = "vm.vsock"
BACKEND_SOCKET = f"{VSOCK_DIRECTORY}/vhost.sock"
"""Where vhost-device-vsock waits for QEMU: in the one directory it can write."""


def draw_cid(
    quarantine: Container[int] = frozenset(), draw: random.Random | None = None
) -> int:
    """Return a random CID that is not reserved and not in quarantine.

    Raises UpstreamError when none is found in ``limits.CID_DRAWS`` draws.
    """
    source = random.SystemRandom() if draw is None else draw
    for _ in range(limits.CID_DRAWS):
        cid = source.randint(limits.RANDOM_CID_FIRST, limits.RANDOM_CID_LAST)
        if cid not in quarantine and cid not in NEVER_PEERS:
            return cid
    raise UpstreamError("no vsock CID is free: all that were tried are reserved")


@dataclass(eq=False)
class KernelVsock:
    """A CID of the kernel's, held by ``fd`` until ``close``."""

    cid: int
    fd: int

    @property
    def device(self) -> list[str]:
        """Words for QEMU; ``{bus}`` is filled in by ``guestargs``."""
        return kernel_device(self.cid, self.fd)

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """Descriptors that QEMU inherits."""
        return (self.fd,)

    def close(self) -> None:
        """Give the CID free: when QEMU is gone and every stream is cut."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def kernel_device(cid: int, fd: int) -> list[str]:
    """Words of the kernel's vsock device."""
    return ["-device", f"vhost-vsock-{{bus}},guest-cid={cid},vhostfd={fd}"]


def open_kernel_vsock(
    cid: int | None = None,
    *,
    quarantine: Container[int] = frozenset(),
    device: Path = DEVICE,
) -> KernelVsock:
    """Reserve a vsock CID in the kernel: the given one, or a random free one.

    Raises SetupError when the device is missing or not ours to open,
    UpstreamError when the CID is in use.
    """
    try:
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise SetupError(
            f"this machine has no {device}",
            hint="run 'sudo modprobe vhost_vsock', or install vhost-device-vsock",
        ) from error
    except PermissionError as error:
        raise SetupError(
            f"cannot open {device}: permission denied",
            hint=f"run 'sudo setfacl -m u:$USER:rw {device}'",
        ) from error
    try:
        return KernelVsock(_take_cid(fd, cid, quarantine), fd)
    except BaseException:
        os.close(fd)
        raise


def _take_cid(fd: int, cid: int | None, quarantine: Container[int]) -> int:
    """Set a CID of the vsock device: the wanted or a drawn one.

    Raises UpstreamError.
    """
    if cid is not None:
        if not _set_cid(fd, cid):
            raise UpstreamError(f"another machine is using vsock CID {cid}")
        return cid
    for _ in range(limits.CID_DRAWS):
        drawn = draw_cid(quarantine)
        if _set_cid(fd, drawn):
            return drawn
    raise UpstreamError("no vsock CID is free: all that were tried are in use")


def _set_cid(fd: int, cid: int) -> bool:
    """Set a vsock CID; False if it is in use.  Raises UpstreamError."""
    try:
        fcntl.ioctl(fd, VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise UpstreamError(f"the kernel rejected vsock CID {cid}: {error}") from error
    return True


@dataclass(eq=False)
class StreamsProcess(ABC):
    """A process that carries a machine's streams, and the socket that QEMU gets."""

    cid: int
    process: Tracked
    uds: Path
    """The guest's connections to port P arrive at ``<uds>_P``."""
    conn: socket.socket

    @property
    @abstractmethod
    def device(self) -> list[str]:
        """Words for QEMU; ``{bus}`` is filled in by ``guestargs``."""

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """Descriptors that QEMU inherits."""
        return (self.conn.fileno(),)

    async def end(self) -> None:
        """End the process (it has no state to save); not cancellable."""
        self.conn.close()
        await self.process.end(limits.VM_QUIT_SECONDS)
        self.process.close()


class HybridVsock(StreamsProcess):
    """A running vhost-device-vsock and our connection to it."""

    @property
    @override
    def device(self) -> list[str]:
        return hybrid_device(self.conn.fileno())


def hybrid_device(fd: int) -> list[str]:
    """Words of the vhost-user vsock device."""
    return [
        *("-chardev", f"socket,id=vsock,fd={fd}"),
        *("-device", "vhost-user-vsock-{bus},chardev=vsock"),
    ]


def hybrid_args(tool: Path, cid: int, backend: Path, uds: Path) -> list[str]:
    """Return vhost-device-vsock's command line.

    One process for each machine: guests of one process can reach each other.
    """
    return [
        str(tool),
        *("--guest-cid", str(cid)),
        *("--socket", str(backend)),
        *("--uds-path", str(uds)),
    ]


def hybrid_environment() -> dict[str, str]:
    """Return the variables that vhost-device-vsock needs beside PATH.

    Version 0.3 stalls forever when a stream is full both ways; LD_PRELOAD loads
    the fix (``_fairpoll.c``) into it, where that was built.
    """
    built = find_spec("broker.host.vmm._fairpoll")
    if built is None or built.origin is None or set(" :") & set(built.origin):
        return {}  # ld.so(8) splits at these, and knows no other way to write them
    return {"LD_PRELOAD": built.origin}


async def start_hybrid_vsock(
    tool: Path,
    directory: Path,
    cid: int,
    *,
    unjailed: Callable[[str], None] | None = None,
    known: Callable[[Tracked], None] | None = None,
) -> HybridVsock:
    """Start vhost-device-vsock for the machine in ``directory``, in its jail.

    Sockets of an earlier process are removed first; those that wait for the
    guest's connections (``vm.vsock_<port>``) are left alone.

    Raises SetupError when the tool is missing or cannot be jailed (see
    ``spawn_jailed`` for ``unjailed`` and ``known``), UpstreamError when it does
    not come up.
    """
    process = await spawn_backend(tool, directory, cid, unjailed=unjailed, known=known)
    try:
        conn = await connect_when_ready(directory / BACKEND_SOCKET, process)
    except BaseException:
        await process.end(0)
        process.close()
        raise
    return HybridVsock(cid, process, directory / VSOCK_DIRECTORY / UDS_NAME, conn)


async def spawn_backend(
    tool: Path,
    directory: Path,
    cid: int,
    *,
    unjailed: Callable[[str], None] | None = None,
    known: Callable[[Tracked], None] | None = None,
) -> Tracked:
    """Start vhost-device-vsock in its jail; it does not listen yet."""
    sockets = directory / VSOCK_DIRECTORY
    sockets.mkdir(mode=0o700, exist_ok=True)
    backend, uds = directory / BACKEND_SOCKET, sockets / UDS_NAME
    return await spawn_backend_at(
        tool, cid, backend, uds, unjailed=unjailed, known=known
    )


async def spawn_backend_at(
    tool: Path,
    cid: int,
    backend: Path,
    uds: Path,
    *,
    unjailed: Callable[[str], None] | None = None,
    known: Callable[[Tracked], None] | None = None,
) -> Tracked:
    """Start vhost-device-vsock with these sockets, both in the one directory it has."""
    # Late: a host loads what builds jails with its first machine.
    from broker.host.vmm.vmm_jail import JailView, forget, spawn_jailed

    for stale in (backend, uds):
        stale.unlink(missing_ok=True)
    words = hybrid_args(tool, cid, backend, uds)
    env = hybrid_environment()
    preloaded = tuple(Path(value) for value in env.values())
    view = JailView(
        tool,
        readable=preloaded,
        writable=(uds.parent,),
        memory=limits.GUEST_SERVER_BYTES,
    )
    return await spawn_jailed(
        HELPER, words, view, env=env, unjailed=unjailed, known=known or forget
    )
