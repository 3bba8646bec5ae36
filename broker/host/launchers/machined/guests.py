"""Machines of systemd-machined as machines that a host can lease.

Whatever registers there (systemd-vmspawn, systemd-nspawn, a script) needs no hook:
a record whose ``peer.machine`` is the machine's name says which sandbox it is.

machined has no message for changes that a client could wait for through varlink, so
the directory in which it keeps a file for each machine is looked at once a second, and
machined is asked only when that has changed.  The files are not read.

The leader's pidfd is opened and compared with the number that machined reports for it,
so that a pid that was used again is not taken for the machine.  A lease ends with that
pidfd, whatever machined reports: its entries can outlive their machines.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from broker.authority.audit import event_log
from broker.core import limits
from broker.core.errors import PeerError, RefusedError, VitrailError
from broker.core.names import SandboxName
from broker.core.process_status import status_fields
from broker.core.stderr_log import isolated
from broker.helpers.process.identity import boot_id, open_pidfd
from broker.host.foreign_machine import (
    ForeignMachine,
    HeldMachine,
    require_private,
)
from broker.host.launchers.machined.containers import (
    make_directory,
    registered_container,
    unit_of,
)
from broker.host.launchers.machined.reply import Registered, call_list, read_reply
from broker.host.required_parts import require_parts
from broker.host.role import HostRole
from broker.ipc.audit import schema
from broker.ipc.control.varlink import VarlinkReader
from broker.net.peers import credentials, peer_process
from broker.net.peers.identity import HybridClaim, VsockClaim, take_cid
from policy.records.model import External, MachinePeer, Record, RecordSet

SYSTEM = Path("/run/systemd")
"""The system's machined; a user's own (systemd 258) has the same files in
``$XDG_RUNTIME_DIR/systemd``."""
_SOCKET = "machine/io.systemd.Machine"
_DIRECTORY = "machines"


class MachinedGuests:
    """Leases registered machines that a record names."""

    def __init__(
        self,
        *,
        host: HostRole,
        log: event_log.EventLog,
        records: Callable[[], RecordSet],
        reload: Callable[[], Awaitable[None]],
        listen_vsock: Callable[[], Awaitable[object]],
        sockets: Path,
        machined: Path = SYSTEM,
    ) -> None:
        self._host = host
        self._log = log
        self._records = records
        self._reload = reload
        self._listen_vsock = listen_vsock
        self._sockets = sockets
        self._path = machined / _SOCKET
        self._directory = machined / _DIRECTORY
        self._refused: dict[str, tuple[int, int]] = {}
        """The leader of each record's machine that was refused: reported once."""

    async def run(self) -> None:
        """Lease machines as systemd-machined's state changes, until cancelled."""
        before, read = -1, None
        again = math.inf
        while True:
            now, records = self._changed(), self._records()
            changed = now != before or records is not read
            if changed or trio.current_time() >= again:
                before, read = now, records
                # guard: a look that failed is made again
                again = trio.current_time() + limits.MACHINED_RETRY_SECONDS
                with isolated():
                    await self.look()
                    # A CID that has just been another machine's may be leased later.
                    if not self._refused:
                        again = math.inf
            await trio.sleep(limits.MACHINED_LOOK_SECONDS)

    def _changed(self) -> int:
        try:
            return self._directory.stat().st_mtime_ns
        except OSError:  # no machined here, or not yet
            return 0

    async def look(self) -> None:
        """Lease the machines of records that have no lease, once.

        Reads the records again if machined has changed its directory.
        """
        if self._changed():
            await self._reload()
        for record in self._records().records.values():
            name = _machine_name(record)
            if name is None or self._leased(record):
                continue
            # guard: an error about one machine ends no other's look
            with isolated():
                await self._look_at(record, name)

    async def _look_at(self, record: Record, name: str) -> None:
        """Create the directory of a record's sockets; find its machine and lease it.

        Writes a failure to the audit log.
        """
        try:
            # A container's own configuration binds it, so it is there before.
            make_directory(self._sockets / record.name)
            await self._look_for(record, name)
        except (VitrailError, OSError, trio.BrokenResourceError) as error:
            await self._note(record, name, (0, 0), error)

    def _leased(self, record: Record) -> bool:
        return any(
            held.lease.sandbox == record.name for held in self._host.active_leases()
        )

    async def _look_for(self, record: Record, name: str) -> None:
        """Ask machined for a record's machine and lease it, if it has one.

        Opens the leader's pidfd and the machine's listeners.  The audit log has the
        lease, or why there is none.
        """
        found = await self._ask(name)
        if found is None:
            self._refused.pop(record.name, None)
            return
        try:
            require_parts(record)
            machine = await self._machine(found, record)
        except VitrailError as error:
            await self._note(record, name, (found.leader, found.inode), error)
            return
        sandbox = SandboxName(record.name)
        try:
            # It closes the machine and records why, where there can be no lease.
            await self._host.admit(sandbox, sandbox, machine)
        except VitrailError:
            self._refused[record.name] = (found.leader, found.inode)
            return
        self._refused.pop(record.name, None)

    async def _note(
        self, record: Record, name: str, leader: tuple[int, int], error: Exception
    ) -> None:
        """Record that a machine was refused a lease, once for each machine."""
        if self._refused.get(record.name) == leader:
            return
        self._refused[record.name] = leader
        await self._log.refused(
            schema.LeaseRefused(
                sandbox=record.name,
                peer=f"machine {name}",
                outcome="refused",
                reason=str(error),
            )
        )

    async def _machine(self, found: Registered, record: Record) -> ForeignMachine:
        """Build the machine of a registered container or VM."""
        held = HeldMachine([found.leader])
        try:
            require_leader(found, held.pidfd(found.leader))
            if found.kind == "container":
                sockets = self._sockets / record.name
                return registered_container(found.name, sockets, held, found.leader)
            hybrid = _hybrid(record)
            if hybrid is not None:
                require_owner(found, held.pidfd(found.leader))
                return _behind_socket(found, held, hybrid)
            return await self._virtual(found, held)
        except BaseException:
            held.close()
            raise

    async def _virtual(self, found: Registered, held: HeldMachine) -> ForeignMachine:
        """Build the machine of a registered VM with a vsock.  Raises RefusedError."""
        if found.cid is None:
            raise RefusedError(
                f"cannot lease machine '{found.name}': it is a VM without a vsock CID",
                hint='start it with a vsock CID; for vhost-device-vsock or Cloud Hypervisor, set hybrid = "PATH" in [peer]',
            )
        require_owner(found, held.pidfd(found.leader))
        cid = take_cid(found.cid)
        await self._listen_vsock()
        claim = VsockClaim(credentials.network_namespace(), cid, found.leader)
        return ForeignMachine(claim, held, found.leader)

    async def _ask(self, name: str) -> Registered | None:
        """Ask machined for a machine; None if none exists.

        Raises PeerError, OSError.
        """
        if not self._path.exists():
            return None
        with trio.move_on_after(limits.MACHINED_ANSWER_SECONDS):
            async with await trio.open_unix_socket(str(self._path)) as stream:
                _require_system(stream.socket)
                await stream.send_all(call_list(name))
                reader = VarlinkReader()
                while True:
                    untrusted_data = await stream.receive_some(1 << 16)
                    if not untrusted_data:
                        raise PeerError("systemd-machined closed the connection")
                    messages = reader.feed(untrusted_data)
                    if messages:
                        return read_reply(messages[0], name)
        raise PeerError(
            f"systemd-machined did not answer within {limits.MACHINED_ANSWER_SECONDS:g} s"
        )


def require_leader(found: Registered, pidfd: int) -> None:
    """Refuse a process that is not the leader registered with machined.

    The caller holds its pidfd.  Raises RefusedError.
    """
    ours = boot_id().replace("-", "")
    if found.boot is not None and found.boot.replace("-", "") != ours:
        raise RefusedError(
            f"systemd-machined registered machine '{found.name}' in another boot"
        )
    # guard: a machine's leader is the process that was registered
    if found.inode and credentials.pidfd_inode(pidfd) not in {0, found.inode}:
        raise RefusedError(
            f"process {found.leader} is not the registered leader of machine '{found.name}'"
        )


def require_owner(found: Registered, pidfd: int) -> None:
    """Refuse a VM of another user than root and ours.

    The caller holds its leader's pidfd.  From systemd 258 on each user at the machine
    may register a process of theirs under any name; it may then run sudo(8), or
    another program with root's rights.  Raises RefusedError.
    """
    try:
        uids = {int(uid) for uid in status_fields(found.leader)["Uid"]}
    except OSError:
        uids = set()
    # After the other: it also refuses a number that is used again.
    group = credentials.control_group(found.leader, pidfd)
    # guard: a machine of another user is not leased
    if not uids <= {0, os.getuid()}:
        raise RefusedError(
            f"cannot lease machine '{found.name}': its leader, process {found.leader}, is a process of another user, who could register any name",
            hint="run the machine as root or as your user",
        )
    # guard: a process that has become root's is not root's machine
    if os.getuid() not in uids and unit_of(group) is None:
        raise RefusedError(
            f"cannot lease machine '{found.name}': its leader, process {found.leader}, runs as root outside machine.slice, where any user can run a setuid program as root",
            hint=f"start it as 'systemd-vmspawn@{found.name}.service' or with Slice=machine.slice",
        )


def _require_system(sock: trio.socket.SocketType) -> None:
    """Refuse a server that is neither root's nor ours (unix(7), SO_PEERCRED)."""
    uid = peer_process.peer_numbers(sock)[1]
    # guard: machined's socket is served by root
    if uid not in {0, os.getuid()}:
        raise PeerError(f"systemd-machined's socket belongs to user {uid}, not root")


def _behind_socket(
    found: Registered, held: HeldMachine, hybrid: Path
) -> ForeignMachine:
    """Connect to a hybrid-vsock socket and hold its server; return the VM.

    Those that may connect are its leader, and the process that listens at the socket.
    Raises RefusedError, or OSError when no process listens there.
    """
    require_private(hybrid.parent)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(0)  # a full queue is an error, not a wait
        sock.connect(str(hybrid))
        pid, uid, _gid = peer_process.peer_numbers(sock)
        # guard: another user's process carries no machine's connections
        if uid not in {0, os.getuid()}:
            raise RefusedError(
                f"the process that listens on {hybrid} belongs to user {uid}, not to you or root",
                hint="run the process that provides the vsock as root or as your user",
            )
        pidfd = peer_process.peer_pidfd(sock)
        held.hold(pid, pidfd if pidfd >= 0 else open_pidfd(pid))
    claim = HybridClaim(str(hybrid), held.connectors())
    return ForeignMachine(claim, held, found.leader)


def _hybrid(record: Record) -> Path | None:
    peer = _peer(record)
    return None if peer is None else peer.hybrid


def _machine_name(record: Record) -> str | None:
    peer = _peer(record)
    return None if peer is None else peer.name


def _peer(record: Record) -> MachinePeer | None:
    launch = record.host.launch
    if isinstance(launch, External) and isinstance(launch.peer, MachinePeer):
        return launch.peer
    return None
