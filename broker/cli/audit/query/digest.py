"""Compute the summary of a period of the log for ``brokerctl audit report``.

Events go in one at a time, oldest first; memory is bounded by the limits
below, whatever the log holds, and everything beyond them is only counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.ipc.audit.filters import Found

COLUMNS = 240
"""Columns of a timeline, from its first moment to its last."""

SANDBOXES = 200
"""Timelines; a peer cannot invent sandboxes, but machines of a fleet are many."""

GROUPS = 500
"""Different denials, and different grants, that are listed separately."""

LATEST = 200
"""Answers and grants that are listed one by one, the latest."""

Fields = Mapping[str, object]


@dataclass
class Lane:
    """One sandbox's timeline; each list has a number for each column."""

    sandbox: str
    machine: str = ""
    events: int = 0
    streams: int = 0
    sent: int = 0
    """Bytes from the sandbox."""
    got: int = 0
    """Bytes to the sandbox."""
    seconds: float = 0.0
    """All its streams together."""
    denied: int = 0
    allowed: int = 0
    any: list[int] = field(default_factory=lambda: [0] * COLUMNS)
    bad: list[int] = field(default_factory=lambda: [0] * COLUMNS)
    alive: list[bool] = field(default_factory=lambda: [False] * COLUMNS)
    """Columns in which it had a lease."""
    open: dict[str, int] = field(default_factory=dict)
    """Leases that have begun and not ended: the column of their beginning."""


@dataclass
class EventGroup:
    """Equal decisions, or equal refusals."""

    count: int = 0
    first_ns: int = 0
    last_ns: int = 0


@dataclass(frozen=True, order=True)
class SharedFields:
    """Fields that equal decisions share."""

    machine: str
    sandbox: str
    service: str
    target: str
    rule: str
    reason: str


@dataclass
class Digest:
    """The result so far; ``begin_ns`` and ``end_ns`` are the timeline's."""

    begin_ns: int
    end_ns: int
    events: int = 0
    first: Found | None = None
    last: Found | None = None
    kinds: dict[str, int] = field(default_factory=dict)
    lanes: dict[tuple[str, str], Lane] = field(default_factory=dict)
    denials: dict[SharedFields, EventGroup] = field(default_factory=dict)
    grants: dict[SharedFields, EventGroup] = field(default_factory=dict)
    answers: list[Found] = field(default_factory=list)
    troubles: list[Found] = field(default_factory=list)
    """Processes that died, policies that were refused, gaps, conflicts."""
    beyond: int = 0
    """Events that belong to nothing that is listed, for want of room."""

    def take(self, found: Found) -> None:
        """Count an event.  Raises IntegrityError if it is malformed."""
        fields = found.fields()
        self.events += 1
        self.first = self.first or found
        self.last = found
        self.kinds[found.kind] = self.kinds.get(found.kind, 0) + 1
        column = self._column(found.time_ns)
        count = _number(fields, "count") or 1
        refused = found.kind.endswith(".refused") and found.kind != "policy.refused"
        bad = refused or fields.get("verdict") == "deny"
        if found.sandbox:
            self._lane(found, fields, column, count, bad=bad)
        if bad:
            self._group(self.denials, found, fields, count)
        elif found.kind == "decision" and fields.get("verdict") == "allow":
            self._group(self.grants, found, fields, count)
        if found.kind in _ANSWERS:
            self.answers = [*self.answers[-LATEST + 1 :], found]
        elif found.kind.endswith(_TROUBLES):
            self.troubles = [*self.troubles[-LATEST + 1 :], found]

    def finish(self) -> None:
        """Extend leases that have not ended to the end of the timeline."""
        for lane in self.lanes.values():
            for begin in lane.open.values():
                _fill(lane.alive, begin, COLUMNS - 1)
            lane.open.clear()

    def _column(self, time_ns: int) -> int:
        span = max(self.end_ns - self.begin_ns, 1)
        column = (time_ns - self.begin_ns) * COLUMNS // (span + 1)
        return min(max(column, 0), COLUMNS - 1)

    def _lane(
        self, found: Found, fields: Fields, column: int, count: int, *, bad: bool
    ) -> None:
        """Add an event to its sandbox's timeline."""
        key = (found.machine, found.sandbox)
        lane = self.lanes.get(key)
        if lane is None:
            if len(self.lanes) >= SANDBOXES:
                self.beyond += 1
                return
            lane = self.lanes[key] = Lane(found.sandbox, found.machine)
        lane.events += 1
        lane.any[column] += 1
        if bad:
            lane.bad[column] += count
            lane.denied += count
        elif fields.get("verdict") == "allow":
            lane.allowed += 1
        if found.kind == "stream.closed":
            lane.streams += 1
            lane.sent += _number(fields, "bytes_from_sandbox")
            lane.got += _number(fields, "bytes_to_sandbox")
            seconds = fields.get("seconds")
            lane.seconds += seconds if isinstance(seconds, int | float) else 0
        _lease(lane, found.kind, str(fields.get("lease", "")), column)

    def _group(
        self,
        groups: dict[SharedFields, EventGroup],
        found: Found,
        fields: Fields,
        count: int,
    ) -> None:
        """Count an event in the group of those with equal fields."""
        words = {n: str(fields.get(n, "")) for n in ("service", "target", "rule")}
        if found.kind == "decision":
            words["rule"] = words["rule"] or "default"
        subject = SharedFields(
            machine=found.machine,
            sandbox=found.sandbox,
            reason=str(fields.get("reason", "")) or str(fields.get("peer", "")),
            **words,
        )
        group = groups.get(subject)
        if group is None:
            if len(groups) >= GROUPS:
                self.beyond += 1
                return
            group = groups[subject] = EventGroup(first_ns=found.time_ns)
        group.count += count
        group.last_ns = max(group.last_ns, found.time_ns)


_ANSWERS = frozenset({"question.answered", "grant.made", "grant.ended"})
_TROUBLES = (".died", ".failed", "policy.refused", ".gap", ".conflict", ".hop-failed")


def _lease(lane: Lane, kind: str, lease: str, column: int) -> None:
    """Add the begin or end of a lease to a timeline."""
    if kind == "lease.begin":
        # A sandbox has one lease at a time; a broker that was killed ended none.
        for begin in lane.open.values():
            _fill(lane.alive, begin, column)
        lane.open = {lease: column}
    elif kind == "lease.end":
        _fill(lane.alive, lane.open.pop(lease, 0), column)
    else:
        lane.alive[column] = True


def _fill(columns: list[bool], begin: int, end: int) -> None:
    columns[begin : end + 1] = [True] * (end + 1 - begin)


def _number(fields: Fields, name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) else 0
