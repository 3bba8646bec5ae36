"""Which notifications of sandboxes are on the desktop, and which are counted only.

Each sandbox has budgets of its own before the total, so that a sandbox that sends thousands
changes nothing for the others.  Sans-IO; times are passed in.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.core.escape import escape_markup, printable
from broker.core.fair_share import may_take
from broker.core.lease import Lease
from broker.core.limits import notifications as limits
from broker.core.sliding_window import SlidingWindow
from broker.helpers.prompt.translation import tr, trn
from broker.ipc.guest.daemons import DaemonShow

DEFAULT = "default"
"""The key of a click on the notification itself."""
LOW, NORMAL, CRITICAL = 0, 1, 2
_ICON = 48


@dataclass(frozen=True)
class Bubble:
    """A notification as the desktop's server is asked to show it; nothing hostile."""

    title: str
    body: str
    """Markup: what a sandbox wrote is escaped."""
    urgency: int
    buttons: tuple[tuple[str, str], ...]
    """Keys of ours and labels."""
    expire: int
    colour: int
    icon: str = ""
    """Name of an icon of the desktop's, in place of a square in the colour: of ours."""
    entry: str = ""
    """Name of our desktop entry; empty: of a sandbox's."""


@dataclass(eq=False)
class Past:
    """A row of the history."""

    when: float
    """Seconds since 1970."""
    sandbox: str
    summary: str
    body: str
    urgency: int
    outcome: str
    """``shown``, ``counted``, or how it ended."""


@dataclass(eq=False)
class Notice:
    """A notification on the desktop: whose it is, and what its buttons mean inside."""

    number: int
    """Ours; the desktop's server has another."""
    lease: Lease
    stream: int
    guest_number: int
    """The number by which the sandbox's daemon knows it."""
    past: Past
    keys: tuple[str, ...] = ()
    """The sandbox's keys of its buttons, in order."""


@dataclass
class _Budget:
    fresh: SlidingWindow = field(
        default_factory=lambda: SlidingWindow(limits.PER_MINUTE, 60.0)
    )
    changes: SlidingWindow = field(
        default_factory=lambda: SlidingWindow(limits.CHANGES_PER_MINUTE, 60.0)
    )


class Board:
    """Admits, counts and ends the notifications of all sandboxes."""

    def __init__(self) -> None:
        self._notices: dict[int, Notice] = {}
        self._numbers = 0
        self._budgets: dict[str, _Budget] = {}
        self._total = SlidingWindow(limits.PER_MINUTE_TOTAL, 60.0)
        self._counted: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._history: dict[tuple[str, str], deque[Past]] = {}
        """By record and sandbox."""

    def find(self, number: int) -> Notice | None:
        """Return a notification that is shown, by our number."""
        return self._notices.get(number)

    def of_stream(self, lease: Lease, stream: int) -> list[Notice]:
        """Return the notifications that came over one connection."""
        # guard: a sandbox changes its own notifications
        return [
            one
            for one in self._notices.values()
            if one.lease.id == lease.id and one.stream == stream
        ]

    def known(self, lease: Lease, stream: int, guest_number: int) -> Notice | None:
        """Return the notification that a sandbox means by its number."""
        for one in self.of_stream(lease, stream):
            if one.guest_number == guest_number:
                return one
        return None

    def admit(
        self, lease: Lease, stream: int, ask: DaemonShow, now: float, when: float
    ) -> Notice | None:
        """Register a notification to be shown; None: it is counted, and not shown.

        ``now`` by a clock that does not go back, ``when`` in seconds since 1970.
        """
        past = self._remember(lease, ask, when)
        notice = self.known(lease, stream, ask.number)
        if not self._may(lease.record, now, changes=notice is not None):
            past.outcome = "counted"
            counted = self._counted.get(lease.sandbox, 0)
            self._counted[lease.sandbox] = counted + 1
            return None
        if notice is None:
            self._numbers += 1
            notice = Notice(self._numbers, lease, stream, ask.number, past)
            self._notices[notice.number] = notice
        notice.past = past
        notice.keys = tuple(key for key, _ in ask.actions)
        return notice

    def _may(self, record: str, now: float, *, changes: bool) -> bool:
        """Return whether a record may show or change a notification now."""
        budget = self._budget(record, now)
        if changes:
            # guard: changes of a notification are paced
            return budget.changes.take(now)
        # guard: notifications of disposables are their record's
        own = sum(one.lease.record == record for one in self._notices.values())
        # guard: notifications of a sandbox are few
        if own >= limits.SHOWN_PER_SANDBOX or not budget.fresh.take(now):
            return False
        # Its own first: what that one refuses costs the others nothing.
        before = budget.fresh.counted(now) - 1
        # guard: notifications of all sandboxes are few
        return (
            may_take(own, len(self._notices), limits.SHOWN_TOTAL)
            and may_take(before, self._total.counted(now), limits.PER_MINUTE_TOTAL)
            and self._total.take(now)
        )

    def _budget(self, record: str, now: float) -> _Budget:
        """Return the record's budget of notifications; forget idle ones."""
        found = self._budgets.get(record)
        if found is None:
            for name, one in list(self._budgets.items()):
                if one.fresh.idle(now) and one.changes.idle(now):
                    del self._budgets[name]
            found = self._budgets[record] = _Budget()
        return found

    def end(self, number: int, outcome: str) -> Notice | None:
        """Forget a notification that is not shown any more, and return it."""
        notice = self._notices.pop(number, None)
        if notice is not None and notice.past.outcome == "shown":
            notice.past.outcome = outcome  # what the user has done is not forgotten
        return notice

    # -- those that are counted -----------------------------------------------------------

    def group(self, sandbox: str) -> tuple[int, int]:
        """Return the number of a sandbox's summary notification, and its count."""
        number = self._groups.get(sandbox)
        if number is None:
            self._numbers += 1
            number = self._groups[sandbox] = self._numbers
        return number, self._counted.get(sandbox, 0)

    def group_of(self, number: int) -> str:
        """Return the sandbox whose notifications this number counts, or nothing."""
        return next((name for name, one in self._groups.items() if one == number), "")

    def end_group(self, sandbox: str) -> int | None:
        """Begin to count again; returns the number of the notification that did."""
        self._counted.pop(sandbox, None)
        return self._groups.pop(sandbox, None)

    # -- the history -----------------------------------------------------------------------

    def history(self, sandbox: str = "") -> Iterator[Past]:
        """Yield what sandboxes sent, each one's oldest first."""
        for (_, name), rows in self._history.items():
            if sandbox in {"", name}:
                yield from rows

    def clear(self, sandbox: str = "") -> None:
        """Forget the history, of one sandbox or of all."""
        for record, name in list(self._history):
            if sandbox in {"", name}:
                del self._history[record, name]

    def _remember(self, lease: Lease, ask: DaemonShow, when: float) -> Past:
        """Add a notification to the history that ``brokerctl notifications`` shows."""
        past = Past(
            when,
            lease.sandbox,
            printable(ask.summary, limits.SHOWN_SUMMARY_CHARS),
            "\n".join(_lines(ask.body)),
            ask.urgency,
            "shown",
        )
        # A separate list: a sandbox must not push out what another one sent.
        own = lease.record, lease.sandbox
        rows = self._history.pop(own, None) or deque(maxlen=limits.HISTORY)
        rows.append(past)
        self._history[own] = rows
        while len(self._history) > limits.HISTORIES:
            ((crowd, _),) = Counter(name for name, _ in self._history).most_common(1)
            # guard: disposables push out histories of their record alone
            oldest = next(name for name in self._history if name[0] == crowd)
            del self._history[oldest]
        return past


def bubble(notice: Notice, ask: DaemonShow, *, colour: int, critical: bool) -> Bubble:
    """Return how a sandbox's notification is shown: its name first, then plain text."""
    urgency = ask.urgency
    # guard: only a rule makes a notification critical
    if urgency == CRITICAL and not critical:
        urgency = NORMAL
    buttons = [(DEFAULT, tr("Show {name}", name=notice.lease.sandbox))]
    buttons += [
        (str(place), printable(label, limits.LABEL_CHARS))
        for place, (key, label) in enumerate(ask.actions)
        if key != DEFAULT
    ]
    expire = ask.expire
    if expire > 0:
        expire = min(max(expire, limits.LEAST_EXPIRE_MS), limits.MOST_EXPIRE_MS)
    # Servers read simple markup in the text.
    # guard: a sandbox's text is plain
    body = escape_markup(notice.past.body)
    return Bubble(
        f"{notice.lease.sandbox}: {notice.past.summary}",
        body,
        urgency,
        tuple(buttons),
        # Zero is for ever, which is the desktop's to choose.
        expire if expire > 0 else -1,
        colour,
    )


def counting(sandbox: str, count: int, colour: int) -> Bubble:
    """Return the notification that counts the hidden ones."""
    more = trn("{number} more notification", "{number} more notifications", count)
    body = tr("To list them, run 'brokerctl notifications {name}'.", name=sandbox)
    return Bubble(f"{sandbox}: {more}", body, LOW, (), -1, colour)


def badge(colour: int) -> tuple[int, int, int, bool, int, int, bytes]:
    """Return a square in a sandbox's colour, as the hint ``image-data`` has pictures."""
    rgb = struct.pack(">I", colour)[1:]
    row = rgb * _ICON
    return _ICON, _ICON, len(row), False, 8, 3, row * _ICON


def _lines(untrusted_body: str) -> list[str]:
    """Return the text's lines, printable and limited in number and length."""
    lines, left = [], limits.SHOWN_BODY_CHARS
    for line in untrusted_body.split("\n")[: limits.BODY_LINES]:
        if left < 1:
            break
        lines.append(printable(line, left))
        left -= len(lines[-1])
    return lines
