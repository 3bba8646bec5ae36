"""Which events a client of the authority may record, and about which sandboxes.

Decisions, questions, grants, the rules in force and the log's own events are written
by the authority alone.  Sans-IO.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import PeerError, RefusedError
from broker.core.lease import Lease
from broker.core.limits import authority as authority_limits
from broker.core.names import LeaseId, SandboxName
from broker.ipc.audit import schema
from policy.names import ADMIN

_BOTH = frozenset({"stream.refused", "process.died", "sandbox.failed"})
_LINK = frozenset({"link.up", "link.down", "link.refused", "audit.conflict"})
_CROSSINGS = schema.ClipboardPasted | schema.ClipboardEnded
_HOST = frozenset(
    {
        "lease.begin",
        "lease.end",
        "lease.refused",
        "sandbox.start",
        "sandbox.machine",
        "sandbox.stop",
        "sandbox.suspend",
        "sandbox.resume",
        "sandbox.failed",
        "port.taken",
    }
)
_STREAMS = frozenset({"stream.opened", "stream.closed"})
"""Those of a link are recorded by both ends."""
_VIEWER = frozenset(
    {
        "stream.opened",
        "stream.closed",
        "program.started",
        "program.exited",
        "window.hop-failed",
        "window.killed",
        "transfer.begin",
        "transfer.returned",
        "transfer.end",
        "device.attached",
        "device.detached",
        "folder.shared",
        "folder.unshared",
        "clipboard.offered",
        "clipboard.pasted",
        "clipboard.ended",
        "microphone.on",
        "microphone.off",
        "camera.on",
        "camera.off",
        "screen.on",
        "screen.off",
        "notification.shown",
        "notification.answered",
    }
)
KINDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "host": _HOST | _STREAMS | _BOTH | _LINK,
        "viewer": _VIEWER | _BOTH | _LINK,
    }
)
"""The kinds of events that a client of each role records, if there is a link."""
_MOST = (1 << 63) - 1
"""The largest number in an event: a worker's claim may have it (``ipc.worker``)."""


class EventRights:
    """What one client may record: its kinds, about the leases that it announced."""

    def __init__(
        self, role: str, *, linked: bool = True, host: EventRights | None = None
    ) -> None:
        """Set up rights of one client.

        ``host``: what the host on the same machine began.

        Without a link, neither client records link events; the viewer records streams.
        """
        kept = role == "viewer" or linked
        self._kinds = KINDS[role] - (frozenset() if linked else _LINK)
        self._kinds -= frozenset() if kept else _STREAMS
        self._host = host
        self._known: dict[str, Lease] = {}
        self._running: dict[str, Lease] = {}

    def begin(self, lease: Lease) -> None:
        """Record that a client announced a lease.  Raises PeerError for a used id."""
        known = self._known.get(lease.id)
        # guard: a lease keeps its sandbox
        if known is not None and known != lease:
            raise PeerError(f"it announces lease {lease.id} for another sandbox")
        # guard: a viewer announces the leases that its host began
        if self._host is not None and self._host.lease(lease.id) != lease:
            raise PeerError(
                f"it announces lease {lease.id}, which its host did not announce, or as "
                "that of another sandbox"
            )
        self._remember(lease)

    def end(self, lease: str) -> None:
        """A lease has ended; events about its end may still come."""
        self._running.pop(lease, None)

    def running(self, lease: str) -> Lease:
        """Return a lease that a client announced and that runs.

        Raises PeerError for one that was never announced, RefusedError for one that
        has ended: its last requests may cross the message that it ends.
        """
        # guard: a permit is of a lease that was announced
        if lease not in self._known:
            raise PeerError("it names a lease that it has not announced")
        # guard: a sandbox that its host has ended is permitted nothing
        if lease not in self._running or not self.held(lease):
            raise RefusedError("the sandbox has stopped")
        return self._running[lease]

    def held(self, lease: str) -> bool:
        """Return whether a lease has not ended at the host on the same machine."""
        return self._host is None or self._host.runs(lease)

    def runs(self, lease: str) -> bool:
        """Return whether the client has begun a lease and not ended it."""
        return lease in self._running

    def _remember(self, lease: Lease) -> None:
        """Store an announced lease; forget an ended one if there are too many."""
        most = authority_limits.AUTHORITY_LEASES
        # guard: a client announces a bounded number of leases
        if len(self._known) >= most and lease.id not in self._known:
            ended = next((one for one in self._known if one not in self._running), None)
            if ended is None:
                raise PeerError(f"it announces more than {most} leases")
            del self._known[ended]
        self._known[lease.id] = self._running[lease.id] = lease

    def _begin_recorded(self, event: schema.LeaseBegin) -> None:
        """Store a lease that a host records.  Raises PeerError for a used id."""
        # guard: a lease is recorded once
        if event.lease in self._known:
            raise PeerError(f"it records lease {event.lease} again")
        self._remember(
            Lease(
                LeaseId(event.lease),
                SandboxName(event.sandbox),
                SandboxName(event.record or event.sandbox),
                event.generation,
            )
        )

    def take(self, untrusted_body: bytes) -> schema.AnyEvent:
        """Decode an event and check that the client may record it.

        Raises PeerError.
        """
        try:
            event = schema.decode(untrusted_body)
        except UNREADABLE as error:
            raise PeerError(f"it sent an invalid event: {error}") from error
        # guard: a client records the kinds of its role
        if event.kind not in self._kinds:
            raise PeerError(f"it may not record an event {event.kind}")
        # guard: readers of the log can add and show each number
        if any(abs(number) > _MOST for number in _numbers_of(event)):
            raise PeerError(f"its event {event.kind} has a number that is too large")
        if isinstance(event, schema.LeaseBegin):
            self._begin_recorded(event)
        elif isinstance(event, schema.LeaseEnd):
            self.end(event.lease)
        elif event.kind not in _HOST:
            self._check_subject(event)
        return event

    def lease(self, number: str) -> Lease | None:
        """Return the lease of an event or a message; None if it is unknown."""
        return self._known.get(number)

    def _check_subject(self, event: schema.AnyEvent) -> None:
        """Raise PeerError for an event about a sandbox that was not announced."""
        if event.lease:
            lease = self.lease(event.lease)
            subject = (event.sandbox, event.generation)
            # guard: an event is about a lease of its channel
            if lease is None or subject != (lease.sandbox, lease.generation):
                raise PeerError(f"its event {event.kind} fits no lease of its own")
        elif event.sandbox:
            about = event.sandbox
            if isinstance(event, _CROSSINGS) and about == ADMIN:
                about = event.target  # what the user copied goes there
            # guard: an event without a lease is about a sandbox of its channel
            if about not in {lease.sandbox for lease in self._known.values()}:
                raise PeerError(
                    f"its event {event.kind} is about no sandbox of its own"
                )


def _numbers_of(event: schema.AnyEvent) -> Iterator[int | float]:
    """Yield the numbers of an event, those among its details too."""
    for value in (*msgspec.structs.asdict(event).values(), *event.detail.values()):
        if isinstance(value, (int, float)):
            yield value
