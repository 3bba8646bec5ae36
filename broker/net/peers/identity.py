"""The identity of a peer, as reported by the kernel.

A claim says how the peer of a lease will be recognised; the *key* of a claim
is what no two live leases may share.  Nothing here does IO: the facts come
from ``credentials`` and are compared here.

The host makes claims and compares them with each connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from broker.core.errors import RefusedError
from broker.core.services import CID_ANY, FIRST_CID, NEVER_PEERS


@dataclass(frozen=True)
class Connector:
    """A process that may connect for a machine: pid, and its pidfd's inode.

    The inode is 0 on kernels without pidfs.
    """

    pid: int
    inode: int


@dataclass(frozen=True)
class HybridClaim:
    """A VM with hybrid vsock: its connections arrive on ``BASE_PORT``.

    ``base`` is the VMM's UNIX socket path in a directory that only the
    launcher may enter.  ``connectors`` are the processes that may connect
    there (the VMM, or the vhost-user backend beside it): the directory alone
    would admit anything that runs as the same user.
    """

    base: str
    connectors: frozenset[Connector]


@dataclass(frozen=True)
class VsockClaim:
    """A VM with AF_VSOCK: (network namespace, CID) of the peer, vsock(7).

    ``holder`` is the process that holds the CID, where its pid is known: when
    it has begun to end, another machine may have the CID.
    """

    netns: int
    cid: int
    holder: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ContainerClaim:
    """A container: ``pid_namespace`` is in the chain of the peer's own.

    Its sockets are in ``directory``, bound into that container only.
    """

    directory: str
    pid_namespace: int


@dataclass(frozen=True)
class GroupClaim:
    """A container of root's, by the control group that root has made for it.

    ``group`` is a path in the unified hierarchy (cgroups(7)).  ``holder`` is a process
    in it: while that lives, no other group can have the path.
    """

    directory: str
    group: str
    holder: int = field(compare=False)


@dataclass(frozen=True)
class FlatpakClaim:
    """A Flatpak application: all of its instances, and their nested sandboxes.

    ``find`` returns the application of a process by its pid namespaces, or None.
    """

    directory: str
    app: str
    find: Callable[[tuple[int, ...]], str | None] = field(compare=False, repr=False)


@dataclass(frozen=True)
class SharedClaim:
    """A box without a separate pid namespace: a label, never a boundary.

    Any process of ``uid`` that reaches ``directory`` is taken for the box: it shares home
    and sockets with the user, so there is nothing to tell it apart by.  ``rootful``: so is
    any process of root.
    """

    directory: str
    uid: int
    rootful: bool = False


LocalClaim = ContainerClaim | GroupClaim | FlatpakClaim | SharedClaim
"""A sandbox on this machine's kernel, with its sockets in a directory."""

Claim = HybridClaim | VsockClaim | LocalClaim


@dataclass(frozen=True)
class ProcessFacts:
    """The kernel's facts about the process at a UNIX socket's far end.

    ``pidfd_inode`` is unique for a process's life (0: kernel too old);
    ``pid_namespaces`` are the inodes from its namespace up to ours; ``group`` is
    its control group in the unified hierarchy, empty where that is not known.
    """

    pid: int
    uid: int
    gid: int
    pidfd_inode: int
    pid_namespaces: tuple[int, ...]
    group: str = ""


@dataclass(frozen=True)
class VsockFacts:
    """The kernel's facts about the machine at an AF_VSOCK socket's far end."""

    netns: int
    cid: int


def take_cid(untrusted_cid: int) -> int:
    """Check the CID of a possible sandbox and return it; RefusedError for all others.

    0 (hypervisor), 1 (loopback), 2 (host) and ANY are never sandboxes.
    """
    if untrusted_cid in NEVER_PEERS or not FIRST_CID <= untrusted_cid < CID_ANY:
        raise RefusedError(
            f"CID {untrusted_cid} is reserved or invalid",
            hint=f"assign the virtual machine a CID from {FIRST_CID} to {CID_ANY - 1}",
        )
    return untrusted_cid


def claim_key(claim: Claim) -> tuple[str, str]:
    """Return the key of a claim that no two live leases may share."""
    match claim:
        case HybridClaim():
            return ("hybrid", claim.base)
        case VsockClaim():
            return ("cid", f"{claim.netns}:{claim.cid}")
        case ContainerClaim() | GroupClaim() | FlatpakClaim() | SharedClaim():
            return ("unix", claim.directory)
        case _:
            assert_never(claim)


def have_same_processes(one: Claim, other: Claim) -> bool:
    """Return whether the kernel reports the same of the processes of two containers.

    Then only their directories divide them, which processes of one pid namespace may
    reach by /proc/PID/root (proc(5)).
    """
    match one, other:
        case ContainerClaim(), ContainerClaim():
            return one.pid_namespace == other.pid_namespace
        case GroupClaim(), GroupClaim():
            return one.group == other.group
        case _:
            return False


def describe(claim: Claim) -> str:
    """Return a claim as words of a log line."""
    match claim:
        case HybridClaim():
            return f"hybrid:{claim.base}"
        case VsockClaim():
            return f"cid {claim.cid}"
        case ContainerClaim():
            return f"container at {claim.directory}"
        case GroupClaim():
            return f"container {claim.group} at {claim.directory}"
        case FlatpakClaim():
            return f"Flatpak {claim.app} at {claim.directory}"
        case SharedClaim():
            return f"label only, at {claim.directory}"
        case _:
            assert_never(claim)


def check(
    claim: Claim,
    facts: ProcessFacts | VsockFacts,
    *,
    alive: frozenset[int] = frozenset(),
) -> None:
    """Compare what a lease claims with what the kernel says of a connection.

    ``alive`` are pids that the caller holds pidfds of and that had not begun
    to end *after* the connection was accepted; see ``_is_connector``.

    Raises RefusedError that names the difference.
    """
    match claim, facts:
        case HybridClaim(), ProcessFacts():
            if not _is_connector(claim, facts, alive):
                raise RefusedError(
                    f"process {facts.pid} (uid {facts.uid}) is not the VMM of this sandbox"
                )
        case VsockClaim(), VsockFacts():
            if (facts.netns, facts.cid) != (claim.netns, claim.cid):
                raise RefusedError(f"CID {facts.cid} is not that of this sandbox")
            if claim.holder is not None and claim.holder not in alive:
                raise RefusedError(
                    f"the machine that had CID {facts.cid} has ended or is ending"
                )
        case GroupClaim(), ProcessFacts():
            _check_group(claim, facts, alive)
        case ContainerClaim() | FlatpakClaim() | SharedClaim(), ProcessFacts():
            _check_local(claim, facts)
        case _:
            raise RefusedError("the connection uses another kind of socket")


def _check_group(claim: GroupClaim, facts: ProcessFacts, alive: frozenset[int]) -> None:
    """Compare a process's control group with a container's.  Raises RefusedError."""
    # guard: a process of another control group is refused
    if not f"{facts.group}/".startswith(f"{claim.group}/"):
        raise RefusedError(
            f"process {facts.pid} (uid {facts.uid}) is not in this container"
        )
    # guard: a control group that was made again is not the container's
    if claim.holder not in alive:
        raise RefusedError("the container has ended or is ending")


def _check_local(
    claim: ContainerClaim | FlatpakClaim | SharedClaim, facts: ProcessFacts
) -> None:
    """Compare a process of this machine with a claim by a directory of sockets."""
    who = f"process {facts.pid} (uid {facts.uid})"
    match claim:
        case ContainerClaim():
            if claim.pid_namespace not in facts.pid_namespaces:
                raise RefusedError(f"{who} is not in this container")
        case FlatpakClaim():
            # guard: an instance of another application is refused
            if claim.find(facts.pid_namespaces) != claim.app:
                raise RefusedError(f"{who} is not an instance of {claim.app}")
        case SharedClaim():
            # guard: root is a box's by its record only
            if facts.uid == 0 != claim.uid and not claim.rootful:
                raise RefusedError(
                    f"{who} belongs to root; its box needs rootful = true in [launch] of its record"
                )
            # guard: another user is not in a box
            if facts.uid not in {claim.uid, 0}:
                raise RefusedError(f"{who} belongs to another user")
        case _:
            assert_never(claim)


def _is_connector(
    claim: HybridClaim, facts: ProcessFacts, alive: frozenset[int]
) -> bool:
    """Return whether one of the machine's processes has made a connection.

    Where the kernel gives the peer's pidfd (6.5) its inode decides.  Below
    that the pid number is all there is, and it is enough under one condition:
    the process we hold a pidfd of lives still.  It was there before the
    listener, so no other process had its number when the connection was made.
    """
    if facts.pidfd_inode:
        return facts.pidfd_inode in {c.inode for c in claim.connectors}
    return facts.pid in alive and facts.pid in {c.pid for c in claim.connectors}
