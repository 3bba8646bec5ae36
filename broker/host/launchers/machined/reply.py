"""systemd-machined's directory of machines, asked through varlink.

Pure: the bytes of a call go out, the bytes of its reply come in.  The interface is
``io.systemd.Machine`` (systemd, src/shared/varlink-io.systemd.Machine.c), as versions
257 and 262 answer it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from broker.core.errors import PeerError
from broker.core.escape import printable
from broker.ipc.control.varlink import BAD_JSON, Call, decode_reply, encode, raw

LIST = "io.systemd.Machine.List"
NO_SUCH_MACHINE = "io.systemd.Machine.NoSuchMachine"
_PIDS = 1 << 22  # the most that /proc/sys/kernel/pid_max can be, proc(5)
_KINDS = frozenset({"vm", "container"})


class _ProcessId(msgspec.Struct, frozen=True, rename="camel"):
    pid: int
    pidfd_id: int | None = None
    boot_id: str | None = None


class _Machine(msgspec.Struct, frozen=True):
    """Fields of other versions are passed over."""

    name: str
    leader: _ProcessId
    kind: str = msgspec.field(name="class")
    cid: int | None = msgspec.field(name="vSockCid", default=None)


@dataclass(frozen=True)
class Registered:
    """A machine that is registered.

    ``kind`` is ``vm`` or ``container``; ``inode`` is that of the leader's pidfd, 0 where
    machined does not report it (kernels before 6.9); ``cid`` is None without a vsock.
    """

    name: str
    kind: str
    leader: int
    inode: int
    boot: str | None
    cid: int | None


def call_list(name: str) -> bytes:
    """Return the call that asks for one machine."""
    return encode(Call(LIST, raw({"name": name})))


def read_reply(untrusted_message: bytes, name: str) -> Registered | None:
    """Return the machine of a reply, without its NUL byte; None: none exists.

    Raises PeerError for a reply that is another error, not a machine, or about another
    machine than ``name``.
    """
    reply = decode_reply(untrusted_message)
    if reply.error == NO_SUCH_MACHINE:
        return None
    if reply.error:
        raise PeerError(
            f"systemd-machined sent the error {printable(reply.error, 100)}"
        )
    try:
        untrusted = msgspec.json.decode(reply.parameters, type=_Machine)
    except BAD_JSON as error:
        raise PeerError(f"systemd-machined sent an invalid reply: {error}") from error
    return _take(untrusted, name)


def _take(untrusted: _Machine, name: str) -> Registered:
    """Validate machined's answer about a machine.  Raises PeerError."""
    # guard: machined answers about the machine that was asked for
    if untrusted.name != name:
        raise PeerError(
            f"systemd-machined sent a reply about another machine than '{name}': '{printable(untrusted.name, 64)}'"
        )
    leader = untrusted.leader
    inode = leader.pidfd_id or 0
    if not 1 < leader.pid <= _PIDS or not 0 <= inode < 1 << 64:
        raise PeerError(f"systemd-machined: invalid leader {leader.pid} ({inode})")
    if untrusted.kind not in _KINDS:
        raise PeerError(f"unknown machine class '{printable(untrusted.kind, 20)}'")
    if untrusted.cid is not None and not 0 <= untrusted.cid < 1 << 32:
        raise PeerError(f"systemd-machined sent an invalid CID: {untrusted.cid}")
    return Registered(
        name, untrusted.kind, leader.pid, inode, leader.boot_id, untrusted.cid
    )
