"""The table of leases: which peer is which sandbox, and until when.

Pure: time is passed in (seconds of a monotonic clock), nothing is opened or
closed here.  The invariants, each with a test that tries to break it:

* an identity (``claim_key``) has at most one live lease;
* a sandbox has at most one live lease;
* two live leases are of containers that the kernel tells apart;
* a CID whose lease ended is refused for CID_QUARANTINE_SECONDS, because the
  kernel resets a dead VM's sockets only while its CID is not taken again;
  a lease that no viewer has taken never had a stream, and closes nothing;
* a lease id is never used twice.

Only the host has such a table.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.names import LeaseId, SandboxName
from broker.net.peers.identity import (
    Claim,
    VsockClaim,
    claim_key,
    describe,
    have_same_processes,
)


@dataclass(frozen=True)
class Held:
    """A live lease with its claim and the time it began."""

    lease: Lease
    claim: Claim
    since: float


class LeaseTable:
    """All live leases of one host broker."""

    def __init__(self) -> None:
        self._by_id: dict[LeaseId, Held] = {}
        self._by_key: dict[tuple[str, str], LeaseId] = {}
        self._by_sandbox: dict[SandboxName, LeaseId] = {}
        self._generations: dict[SandboxName, int] = {}
        self._quarantine: dict[tuple[str, str], float] = {}

    def begin(
        self, *, sandbox: SandboxName, record: SandboxName, claim: Claim, now: float
    ) -> Lease:
        """Enter a new lease in the table.

        Raises RefusedError with the invariant it would break.
        """
        key = claim_key(claim)
        if len(self._by_id) >= limits.LEASES:
            raise RefusedError(
                f"cannot begin another lease: there are already {limits.LEASES}"
            )
        if sandbox in self._by_sandbox:
            raise RefusedError(
                f"cannot lease sandbox {sandbox} again: it already has a lease",
                hint=f"to end it, run 'brokerctl stop {sandbox}'",
            )
        if key in self._by_key:
            other = self._by_id[self._by_key[key]].lease.sandbox
            raise RefusedError(f"{describe(claim)} is leased to sandbox {other}")
        for held in self._by_id.values():
            # guard: two sandboxes are told apart by the kernel
            if have_same_processes(held.claim, claim):
                raise RefusedError(
                    f"the processes of sandbox {sandbox} cannot be distinguished from those of sandbox {held.lease.sandbox}: their containers share a PID namespace or control group",
                    hint="start the container in a PID namespace and control group of its own, without '--pid=container:' and shared PID namespaces of pods",
                )
        free_at = self._quarantine.get(key, now)
        if free_at > now:
            raise RefusedError(
                f"{describe(claim)} belonged to another lease and is reserved for {free_at - now:.0f} s",
                hint="wait, or give the machine another CID",
            )
        self._quarantine.pop(key, None)
        generation = self._generations.get(sandbox, 0) + 1
        self._generations[sandbox] = generation
        lease = Lease(LeaseId(secrets.token_hex(8)), sandbox, record, generation)
        self._by_id[lease.id] = Held(lease, claim, now)
        self._by_key[key] = lease.id
        self._by_sandbox[sandbox] = lease.id
        return lease

    def end(self, lease: LeaseId, now: float, *, taken: bool = True) -> Held | None:
        """Remove a lease and return it; None if it has ended before.

        ``taken``: whether it can have had a stream.
        """
        held = self._by_id.pop(lease, None)
        if held is None:
            return None
        key = claim_key(held.claim)
        del self._by_key[key]
        del self._by_sandbox[held.lease.sandbox]
        if taken and isinstance(held.claim, VsockClaim):
            self._quarantine = {k: t for k, t in self._quarantine.items() if t > now}
            self._quarantine[key] = now + limits.CID_QUARANTINE_SECONDS
        return held

    def get(self, lease: LeaseId) -> Held | None:
        """Return a live lease."""
        return self._by_id.get(lease)

    def of_sandbox(self, sandbox: SandboxName) -> Held | None:
        """Return the live lease of a sandbox."""
        lease = self._by_sandbox.get(sandbox)
        return None if lease is None else self._by_id[lease]

    def live(self) -> list[Held]:
        """Return all live leases, oldest first."""
        return list(self._by_id.values())

    def closed_cids(self, now: float) -> frozenset[int]:
        """Return the CIDs that must not be given to a new machine now."""
        cids = {h.claim.cid for h in self.live() if isinstance(h.claim, VsockClaim)}
        for (kind, key), free_at in self._quarantine.items():
            if kind == "cid" and free_at > now:
                cids.add(int(key.rpartition(":")[2]))
        return frozenset(cids)
