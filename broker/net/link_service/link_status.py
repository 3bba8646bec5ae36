"""The state of the link, as ``brokerctl status`` shows it at either end.

The host or the viewer makes it, from its own end of the link.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from broker import __version__
from broker.core.errors import VitrailError
from broker.core.escape import fit, printable
from broker.core.limits import link as limits
from broker.ipc.control.types.status import LinkOther, LinkStatus
from broker.net.link.cures import cure
from broker.net.link.link_rows import STATUS, StatusReply
from broker.net.link.wire_types import VERSION, Role
from broker.net.link_service.epoch import Epoch
from broker.wire.row import Empty

_ASK_SECONDS = 2.0
_UNSTEADY_SECONDS = 60.0
_UNSTEADY_LOSSES = 3
_LOSSES = 100
_LISTED = 8
"""Sandboxes that a loss names."""
_CLOCK_SECONDS = 10
"""Clocks that differ by more are a warning at both ends."""


@dataclass(eq=False)
class LinkState:
    """The state of the link at one end, kept by that end's shell."""

    role: Role
    endpoint: str
    state: str = "down"
    """``down``, ``waiting`` (viewer), ``dialling`` (host) or ``up``."""
    since: float = field(default_factory=time.time)
    epoch: Epoch | None = None
    problem: str = ""
    """Why there is no link now; "" while there is one."""
    hint: str = ""
    """What the error of ``problem`` says to do."""
    epochs: int = 0
    refused: int = 0
    _losses: deque[float] = field(default_factory=lambda: deque(maxlen=_LOSSES))
    """When the link was lost, on the monotonic clock."""
    _last_loss: str = ""
    loss: str = ""
    """The programs that ended with the link when it last had some, and why, for people."""
    loss_since: float = 0.0
    """Seconds since 1970."""
    changed: trio.Event = field(default_factory=trio.Event)
    """Set, and another one made, when the state is another."""

    def enter(self, state: str, problem: str = "", hint: str = "") -> None:
        """Set the link's state and problem, and wake those that wait for a change."""
        if state != self.state:
            self.since = time.time()
            if self.state == "up":
                self._losses.append(time.monotonic())
                self._last_loss = problem
        self.state = state
        self.problem, self.hint = problem, hint
        self.changed.set()
        self.changed = trio.Event()

    def up(self, epoch: Epoch) -> None:
        """An epoch has begun."""
        self.epoch = epoch
        self.epochs += 1
        self.enter("up")

    def cure(self, problem: str) -> str:
        """Return what to do about a problem of the link, or about a link that is not up."""
        if self.hint and problem == self.problem:
            return self.hint
        return cure(problem, self.role) if problem or self.state != "up" else ""

    def note_loss(self, programs: Mapping[str, int], reason: str) -> None:
        """Note that a link has ended, and with it ``programs``, counted by sandbox."""
        if programs:
            self.loss = f"{_ended(programs)}: {printable(reason)}"
            self.loss_since = time.time()

    def unsteady(self) -> str:
        """Return the problem of a link that is lost again and again; else empty.

        Each attempt may succeed, so that ``state`` alone says that all is well.
        """
        lost = sum(time.monotonic() - at < _UNSTEADY_SECONDS for at in self._losses)
        if lost < _UNSTEADY_LOSSES:
            return ""
        return (
            f"lost {lost} times in the last {_UNSTEADY_SECONDS:g} s, the last time: "
            f"{self._last_loss or 'no reason was given'}"
        )

    async def status(self) -> LinkStatus:
        """Return the link's status.

        Asks the other end for its numbers, if it answers soon.
        """
        epoch = self.epoch
        asked = trio.current_time()
        there = None if epoch is None else await _ask(epoch)
        # No answer, though the epoch lives: only its end would say so, a minute later.
        late = epoch.unanswered(asked) if epoch and epoch.live and not there else ""
        problem = self.unsteady() or self.problem or late
        return LinkStatus(
            role=self.role.name.lower(),
            endpoint=self.endpoint,
            state=self.state,
            since=self.since,
            version=VERSION,
            problem=problem,
            cure=self.cure(problem),
            name="" if epoch is None else epoch.name,
            epoch="" if epoch is None else epoch.digits,
            epochs=self.epochs,
            leases=0 if epoch is None else len(epoch.leases.all()),
            streams=0 if epoch is None else len(epoch.streams),
            refused=self.refused,
            loss=self.loss,
            loss_since=self.loss_since,
            other=there,
        )


def _ended(programs: Mapping[str, int]) -> str:
    """Return which programs have ended, with their numbers by sandbox."""
    names = sorted(programs)
    listed = [f"{name} ({programs[name]})" for name in names[:_LISTED]]
    if len(names) > _LISTED:
        listed.append(f"{len(names) - _LISTED} more sandboxes")
    total = sum(programs.values())
    count = "1 program" if total == 1 else f"{total} programs"
    return f"{count} with windows ended with the link, in {', '.join(listed)}"


async def _ask(epoch: Epoch) -> LinkOther | None:
    """Ask the other end for its numbers; None without an answer in time."""
    if epoch.is_silent:
        return None
    with trio.move_on_after(_ASK_SECONDS):
        try:
            reply = await epoch.call(STATUS, Empty())
        except VitrailError:
            return None  # it is being lost; the next status says so
        return LinkOther(
            program=reply.program,
            leases=reply.leases,
            streams=reply.streams,
            refused=reply.refused,
            up_seconds=reply.up_seconds,
            warnings=[*reply.warnings, *_clocks(reply.clock)],
        )
    return None


def own_status(epoch: Epoch, since: float, warnings: list[str]) -> StatusReply:
    """Return this end's status as the message for the other end."""
    limit = limits.LINK_TEXT_CHARACTERS
    told = tuple(fit(text, limit) for text in warnings[-limits.LINK_WARNINGS :])
    return StatusReply(
        f"vitrail {__version__}",
        len(epoch.leases.all()),
        len(epoch.streams),
        epoch.refused,
        max(0, int(time.time() - since)),
        told,
        int(time.time()),
    )


def _clocks(there: int) -> list[str]:
    """Return a warning where two clocks differ: their logs read in a wrong order."""
    ahead = there - int(time.time())
    if not there or abs(ahead) <= _CLOCK_SECONDS:
        return []
    which = "ahead of" if ahead > 0 else "behind"
    text = f"the other machine's clock is {abs(ahead)} s {which} this machine's"
    return [f"{text}: the times in the two audit logs do not agree"]
