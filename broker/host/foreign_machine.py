"""A machine or container that another program started and asks a lease for.

We see its leader's pidfd, or nothing but the launcher's open call; that is
all a foreign lease's life hangs on, and the documentation says it is weaker
than our own launcher's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.names import ServiceName
from broker.core.services import (
    AUDIO,
    DISPLAY,
    PORTS,
    SSH_AGENT,
    TRANSFERS,
    WAYLAND_DOOR,
)
from broker.helpers.process.fork_client import ForkedProcess
from broker.helpers.process.identity import (
    ProcessIdentity,
    identity_of,
    open_pidfd,
)
from broker.helpers.process.spawn import has_ended, wait_ended
from broker.host.acceptor import Acceptors, RemoteListener, end_acceptor
from broker.host.machine_interface import PROGRAMS, ConnectionKind, MachineFacts
from broker.host.processes.tracked import Tracked
from broker.host.vmm.arena import is_arena, is_kernel_memory
from broker.ipc.control.types.leases import LeaseRequest
from broker.net.addresses import HybridEndpoint, UnixEndpoint
from broker.net.listeners import Listener, open_listener
from broker.net.peers import credentials
from broker.net.peers.identity import (
    Claim,
    Connector,
    ContainerClaim,
    FlatpakClaim,
    GroupClaim,
    HybridClaim,
    SharedClaim,
    VsockClaim,
    take_cid,
)
from policy.limits import SHARED_FOLDERS

_OF_PROGRAMS = (ContainerClaim, GroupClaim, FlatpakClaim)
"""Claims whose leader is the first process of a sandbox's programs.  That of a shared box
is brokerctl, and that of a machine a VMM."""


class HeldMachine:
    """Processes held by pidfd: the leader, and others that may connect."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._fds: dict[int, int] = {}
        try:
            for pid in pids:
                self._fds[pid] = _hold(pid)
        except BaseException:
            self.close()
            raise

    def connectors(self) -> frozenset[Connector]:
        """The processes as a claim names them."""
        return frozenset(
            Connector(pid, credentials.pidfd_inode(fd)) for pid, fd in self._fds.items()
        )

    def hold(self, pid: int, pidfd: int) -> None:
        """Hold another process, whose pidfd is ours from now on."""
        if pid in self._fds:
            os.close(pidfd)
        else:
            self._fds[pid] = pidfd

    def pidfd(self, pid: int) -> int:
        """The pidfd of one of them."""
        return self._fds[pid]

    def identities(self) -> list[ProcessIdentity]:
        """Return who they are, for a later broker.  Raises OSError for an ended one."""
        return [identity_of(pid, fd) for pid, fd in self._fds.items()]

    def alive(self) -> frozenset[int]:
        """Return the pids of the held processes that have not begun to end."""
        return frozenset(
            pid
            for pid, fd in self._fds.items()
            if not credentials.is_ending(pid) and not has_ended(fd)
        )

    def close(self) -> None:
        """Let go of them."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


def _hold(pid: int) -> int:
    """Return a pidfd of a machine's process.  Raises RefusedError if none exists."""
    try:
        return open_pidfd(pid)
    except OSError as error:
        raise RefusedError(
            f"cannot bind the lease to process {pid}: {error.strerror}",
            hint="pass the PID of the VMM or of the container's first process",
        ) from error


class ForeignMachine:
    """Implements ``host.machine_interface.Machine`` for machines that other programs started."""

    def __init__(self, claim: Claim, held: HeldMachine, leader: int | None) -> None:
        self._claim = claim
        self.held = held
        self.note: Path | None = None
        """The file by which a later broker takes up its lease."""
        self._leader = leader
        self.folder_servers: dict[int, Tracked] = {}
        """Its virtiofsd processes, by the number of the folder's place."""
        self.arena = -1
        """A descriptor of its arena, closed with it; -1: it has none."""
        self._left = trio.Event()
        self._acceptor: ForkedProcess | None = None

    @property
    def claim(self) -> Claim:
        """How its connections are recognised."""
        return self._claim

    @property
    def facts(self) -> MachineFacts:
        """Little is known of a foreign machine."""
        cid = self._claim.cid if isinstance(self._claim, VsockClaim) else None
        processes: list[tuple[str, int]] = []
        first = self._leader if isinstance(self._claim, _OF_PROGRAMS) else None
        # Another process may get the number of a leader that has ended.
        if first is not None and first in self.alive():
            processes.append((PROGRAMS, first))
        if self._acceptor is not None:
            processes.append(("acceptor", self._acceptor.pid))
        return MachineFacts(pid=self._leader, cid=cid, processes=tuple(processes))

    @property
    def secret(self) -> None:
        """Its launcher put none of our secrets into it."""
        return

    def alive(self) -> frozenset[int]:
        """Pids of its processes that have not begun to end."""
        return self.held.alive()

    async def open_doors(
        self, acceptors: Acceptors
    ) -> Mapping[ServiceName, ConnectionKind]:
        """Open the sockets to which the machine connects; return their services."""
        match self._claim:
            case VsockClaim():
                return {}  # the shared listeners of session.vsock
            case HybridClaim():
                return await hybrid_doors(Path(self._claim.base))
            case ContainerClaim() | GroupClaim() | FlatpakClaim() | SharedClaim():
                # There is no agent inside, so there is no other end to talk to.
                self._acceptor, doors = await container_doors(
                    acceptors, Path(self._claim.directory)
                )
                return doors

    async def go(self) -> None:
        """It runs already."""

    async def wait(self) -> str:
        """Wait for the leader's end, or for the launcher to let go.

        A container's lease also ends with the process that accepts for it.
        """
        if self._leader is None:
            await self._left.wait()
            return "its launcher released the lease"
        reasons: list[str] = []
        async with trio.open_nursery() as nursery:

            async def ended(wait: Callable[[], Awaitable[object]], why: str) -> None:
                await wait()
                reasons.append(why)
                nursery.cancel_scope.cancel()

            pidfd = self.held.pidfd(self._leader)
            nursery.start_soon(ended, self._left.wait, "its launcher released it")
            nursery.start_soon(ended, partial(wait_ended, pidfd), "it has ended")
            if self._acceptor is not None:
                why = "the process that accepts its connections has ended"
                nursery.start_soon(ended, self._acceptor.wait, why)
        return reasons[0]

    def leave(self) -> None:
        """The launcher lets go."""
        self._left.set()

    async def suspend(self) -> None:
        """Refuse: another program holds its processes.  Raises RefusedError."""
        raise RefusedError(
            "only micro VMs that the broker starts can be suspended: the broker has no "
            "control group with all processes of this sandbox",
            hint="suspend it by the program that started it, such as 'podman pause' or "
            "'virsh suspend'; its windows stay",
        )

    async def resume(self) -> None:
        """See ``suspend``."""
        await self.suspend()

    async def power_down(self, grace: float) -> None:
        """It is not ours to end: only the lease ends."""
        del grace
        self._left.set()

    async def close(self) -> None:
        """End its acceptor, let go of its processes, and remove the file of its lease."""
        if self._acceptor is not None:
            await end_acceptor(self._acceptor)
        self.let_go()
        if self.note is not None:
            self.note.unlink(missing_ok=True)

    def let_go(self) -> None:
        """Let go of its processes and its arena."""
        self.held.close()
        for server in self.folder_servers.values():
            server.close()
        if self.arena >= 0:
            os.close(self.arena)
            self.arena = -1


async def hybrid_doors(
    base: Path, *, alone: bool = False
) -> dict[ServiceName, Listener]:
    """Listen on ``<base>_<port>`` for each service, the hybrid vsock's way.

    What a killed broker left there is replaced.  ``alone``: see ``open_listener``.
    Raises SetupError when a path is too long or a process listens there.
    """
    doors: dict[ServiceName, Listener] = {}
    try:
        for service, port in PORTS.items():
            place = HybridEndpoint(base, port)
            doors[service] = await open_listener(place, alone=alone)
    except BaseException:
        for door in doors.values():
            door.close()
        raise
    return doors


async def container_doors(
    acceptors: Acceptors, directory: Path
) -> tuple[ForkedProcess, dict[ServiceName, RemoteListener]]:
    """Have an acceptor listen on one socket for each service; return its listeners.

    Only those that do not need our agent; also one for Wayland itself, to be
    bound into the sandbox.  Raises as ``hybrid_doors``.
    """
    services = (DISPLAY, AUDIO, SSH_AGENT, WAYLAND_DOOR)
    places = {
        service: UnixEndpoint(directory / service)
        for service in (*services, *sorted(TRANSFERS))
    }
    return await acceptors.start(places, WAYLAND_DOOR)


def admit_other_users(
    directory: Path, doors: Mapping[ServiceName, ConnectionKind]
) -> None:
    """Change the mode of these sockets so that other users can connect to them.

    Raises UpstreamError if a file of another kind is in a socket's place; the doors
    are closed then.
    """
    try:
        for service in doors:
            # guard: only a socket is opened to other users
            _admit_other_users(directory / service)
    except BaseException:
        for door in doors.values():
            door.close()
        raise


def _admit_other_users(path: Path) -> None:
    """Let other users connect to a socket, but change no other file's mode."""
    # The directory is mounted in a sandbox, which may be able to write to it: a link
    # there must not open a file of the user's to all users.
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise FileExistsError(errno.EEXIST, "the file is not a socket")
            # chmod(2) takes no O_PATH descriptor but by this path (open(2)).
            Path(f"/proc/self/fd/{fd}").chmod(0o666)
        finally:
            os.close(fd)
    except OSError as error:
        raise UpstreamError(
            f"cannot change the socket's mode: {error.strerror}", where=str(path)
        ) from error


def take_foreign(request: LeaseRequest) -> ForeignMachine:
    """Return the machine that a launcher described: its claim and its processes.

    Raises RefusedError for a description that identifies nothing.
    """
    if [request.hybrid, request.cid, request.unix].count(None) != 2:
        raise RefusedError("the request must set exactly one of hybrid, cid and unix")
    leader = [] if request.leader is None else [request.leader]
    pids = sorted({*(request.connectors or ()), *leader})
    machine = machine_of(request, HeldMachine(pids))
    try:
        for place, pid in enumerate(request.folder_servers or ()):
            machine.folder_servers[place] = _folder_server(place, pid)
        if request.arena is not None:
            machine.arena = _open_arena(request.arena.pid, request.arena.number)
    except BaseException:
        machine.let_go()
        raise
    return machine


def _folder_server(place: int, pid: int) -> Tracked:
    """Hold the virtiofsd of a place.  Raises RefusedError for one that has ended."""
    if place >= SHARED_FOLDERS[1]:
        raise RefusedError(f"a machine has at most {SHARED_FOLDERS[1]} folders")
    pidfd = _hold(pid)
    try:
        return Tracked(f"virtiofsd-{place}", identity_of(pid, pidfd), pidfd)
    except OSError as error:
        os.close(pidfd)
        raise RefusedError(f"the server of a folder has ended: {error}") from error


def _open_arena(pid: int, number: int) -> int:
    """Return a descriptor of an arena that a process has.  Raises RefusedError."""
    path, fd = Path(f"/proc/{pid}/fd/{number}"), -1
    try:
        # To look at a file, or to open it, may wait for who serves it (FUSE), or do
        # something.  O_PATH does neither.
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            # guard: no file system is asked for an arena
            if is_kernel_memory(held):
                again = f"/proc/self/fd/{held}"
                fd = os.open(again, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        finally:
            os.close(held)
        if fd >= 0 and is_arena(fd):
            return fd
    except OSError as error:
        raise RefusedError(f"cannot open the arena {path}: {error.strerror}") from error
    if fd >= 0:
        os.close(fd)
    # guard: a lease lends no other file as its arena
    raise RefusedError(f"{path} is not an arena: memory of a size that cannot change")


def machine_of(request: LeaseRequest, held: HeldMachine) -> ForeignMachine:
    """Return the machine of a request whose processes are held.

    Raises RefusedError, SetupError; the processes are let go of then.
    """
    try:
        return ForeignMachine(_claim(request, held), held, request.leader)
    except BaseException:
        held.close()
        raise


def _claim(request: LeaseRequest, held: HeldMachine) -> Claim:
    """Return the claim of a request's CID, hybrid or UNIX socket."""
    hybrid, cid, unix = request.hybrid, request.cid, request.unix
    leader = request.leader
    if cid is not None:
        return VsockClaim(credentials.network_namespace(), take_cid(cid), leader)
    if hybrid is not None:
        require_private(Path(hybrid).parent)
        if not held.connectors():
            raise RefusedError(
                "a request with hybrid must set leader or connectors, the PIDs of the processes that may connect: the VMM or the vhost-user backend"
            )
        return HybridClaim(hybrid, held.connectors())
    if leader is None or unix is None:
        raise RefusedError(
            "a request with unix must set leader, the PID of the container's first process"
        )
    return container_claim(Path(unix), held, leader)


def container_claim(directory: Path, held: HeldMachine, leader: int) -> ContainerClaim:
    """Return how the connections of a container are recognised.

    Raises RefusedError when its first process has no pid namespace of its or
    others may write to the directory, SetupError on a kernel before 6.11.
    """
    require_private(directory)
    namespaces = credentials.pid_namespaces(held.pidfd(leader))
    ours = credentials.pid_namespaces_of_self()
    if not namespaces:
        raise SetupError(
            "this kernel cannot identify a container's PID namespace",
            hint="install Linux 6.11 or later",
        )
    if namespaces[0] in ours:
        raise RefusedError(
            f"process {leader} is not in a separate PID namespace, so Vitrail cannot distinguish its connections from those of other programs"
        )
    return ContainerClaim(str(directory), namespaces[0])


def require_private(directory: Path) -> None:
    """Refuse a directory that others can write to.  Raises RefusedError."""
    try:
        facts = directory.stat()
    except OSError as error:
        raise RefusedError(f"{directory}: {error.strerror}") from error
    if facts.st_uid not in {0, os.getuid()} or facts.st_mode & 0o022:
        raise RefusedError(
            f"users other than you and root can write to {directory}",
            hint=f"use a directory that you or root own, and run 'chmod go-w {directory}'",
        )
