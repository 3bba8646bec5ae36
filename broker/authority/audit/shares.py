"""How much of the audit log one sandbox may fill.

Each allowed operation is recorded as an event, before its effect, so a sandbox that
opens allowed streams without end would push everything else out of a log of
bounded size: at the pace at which streams are decided, 1 GiB in half an hour.
Dropping or joining such events would break "recorded before it takes effect",
so the sandbox's next opening is refused instead; refusals are counted, and cost
next to nothing.

Each record has a share for all sandboxes of it, one after the other or at the same
time, and all of them together have one after it.  When the
common one is used up, a sandbox that has written little still writes: otherwise a few
busy sandboxes could keep every other from opening a window.  The broker's and
the user's own events belong to no sandbox and are never refused.

Sans-IO: time is passed in.
"""

from __future__ import annotations

from collections import OrderedDict

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.lease import Lease
from broker.core.limits import audit as audit_limits
from broker.core.token_bucket import TokenBucket
from broker.ipc.audit.schema import Event, encode

_ROW_BYTES = 200
"""Bytes of an event beside its body and the columns made from it: leaf, keys, pages."""
_STAMP_BYTES = 320
"""Of its body, which the store adds: version, number, times, boot and broker."""


def cost(event: Event) -> int:
    """Estimate an event's bytes in the log's file, columns and indices included."""
    # guard: charged as it is written
    return 2 * (len(encode(event)) + _STAMP_BYTES) + _ROW_BYTES


class Owners:
    """Whose budgets a sandbox uses: its record's, so that a disposable has no fresh one."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def learn(self, lease: Lease) -> None:
        """Note the record of a sandbox that begins something."""
        self._records[lease.sandbox] = lease.record
        self._records.move_to_end(lease.sandbox)
        if len(self._records) > 2 * limits.LEASES:
            self._records.popitem(last=False)

    def of(self, sandbox: str) -> str:
        """Return the record's name; the sandbox's own where none is known."""
        # guard: budgets are a record's
        return self._records.get(sandbox, sandbox)


class LogShares:
    """The shares of all sandboxes of one broker."""

    def __init__(self, times: int = 1) -> None:
        """Set up full shares; at once they are so many ``times`` as large."""
        self._own: dict[str, TokenBucket] = {}
        self._burst = times * audit_limits.AUDIT_SHARE_BYTES
        self._all = _share(
            times * audit_limits.AUDIT_SHARES_BYTES,
            audit_limits.AUDIT_SHARES_PER_SECOND,
        )

    def charge(self, owner: str, bytes_: int, now: float) -> None:
        """Count the bytes recorded about a record's sandboxes; "": in no share.

        Never refused: an event about a begun operation already belongs in the log,
        so a share may go below zero.  ``now`` in seconds, monotonic.
        """
        if not owner:
            return
        self._of(owner, now).take(now, bytes_)
        self._all.take(now, bytes_)

    def check(self, owner: str, now: float) -> None:
        """Raise RefusedError when a record's sandboxes may begin nothing just now."""
        share = self._own.get(owner)
        if share is None:
            return
        # guard: a share of the log
        wait = share.early(now)
        floor = self._burst - audit_limits.AUDIT_SHARE_FLOOR_BYTES
        # guard: some of the log for each
        if not wait and share.early(now, floor) > 0:
            # guard: all shares together
            wait = self._all.early(now)
        if wait > 0:
            raise RefusedError(
                f"no share of the audit log is left for '{owner}' for {max(1, wait):.0f} s",
                hint=f"wait until then; to see which events used the share, run 'brokerctl audit stats --sandbox {owner}'",
            )

    def _of(self, owner: str, now: float) -> TokenBucket:
        """Return an owner's share of the log; create it if none exists."""
        share = self._own.get(owner)
        if share is None:
            if len(self._own) >= limits.LEASES:
                self._forget(now)
            share = _share(self._burst, audit_limits.AUDIT_SHARE_PER_SECOND)
            self._own[owner] = share
        return share

    def _forget(self, now: float) -> None:
        """Drop the entries of sandboxes whose share is full again."""
        for name in [
            name
            for name, share in self._own.items()
            if not share.early(now, self._burst)
        ]:
            del self._own[name]


def _share(burst: int, rate: int) -> TokenBucket:
    return TokenBucket(float(rate), burst)
