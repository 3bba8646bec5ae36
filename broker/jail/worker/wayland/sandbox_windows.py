"""In the worker: the shared state of all Wayland connections of a sandbox.

Its rules, its counters, the list of its windows, and the reports about them to
the broker: limits that were hit once a second, a trace where one is wanted.
"""

from __future__ import annotations

import secrets
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator
from functools import partial

import trio

from broker.core import limits
from broker.core.errors import RefusedError
from broker.core.limits import wayland as wayland_limits
from broker.core.streams.wayland_rules import takes_away
from broker.ipc import worker as messages
from broker.jail.wayland import listing
from broker.jail.wayland.handlers import attention
from broker.jail.wayland.handlers.registry import take_away
from broker.jail.wayland.sandbox import Sandbox
from broker.jail.worker.wayland.connection import WaylandConnection
from broker.jail.worker.wayland.files_and_pipes import RealMachine
from broker.jail.worker.wayland.waypipe_connection import StreamConnection
from broker.jail.worker.wayland.waypipe_memory import ArenaFile, StreamMachine

Outbox = trio.MemorySendChannel[messages.FromWorker]

_BETWEEN_ACTS = 0.25
"""Seconds: what a rule's ``gesture=`` may be wrong by, to the strict side."""


_BETWEEN_MAPS = 0.25
"""Seconds between two messages about windows that were mapped."""


class SandboxWindows:
    """All windows of the worker's sandbox."""

    def __init__(self, order: messages.FrameRules) -> None:
        self._rules = order.rules
        self.trace = Trace() if order.trace else None
        self._sandbox = Sandbox(
            self._rules.name, self._rules.ceilings, secrets.token_hex(8)
        )
        self._machine = RealMachine()
        self._memory = StreamMachine()
        self._told: Counter[str] = Counter()
        self._acted = trio.Event()
        self._sandbox.on_act = self._note_act
        self._mapped = trio.Event()
        self._sandbox.on_mapped = self._note_mapped

    @property
    def sandbox(self) -> Sandbox:
        """State that its connections share."""
        return self._sandbox

    def _note_act(self) -> None:
        self._acted.set()  # the current event; each report makes a new one

    async def tell_acts(self, outbox: Outbox) -> None:
        """Report that the user has acted in a window, at most every 250 ms."""
        while True:
            await self._acted.wait()
            self._acted = trio.Event()
            when = self._sandbox.acted
            now = trio.current_time()
            ago = 0.0 if when is None else min(60.0, max(0.0, now - when))
            await outbox.send(messages.UserInput(ago))
            await trio.sleep(_BETWEEN_ACTS)

    def _note_mapped(self) -> None:
        self._mapped.set()

    async def tell_mapped(self, outbox: Outbox) -> None:
        """Report that windows were mapped, at once and then at a limited rate."""
        while True:
            await self._mapped.wait()
            self._mapped = trio.Event()
            await outbox.send(messages.WindowMapped())
            await trio.sleep(_BETWEEN_MAPS)

    def connection(
        self, number: int, client: socket.socket, compositor: socket.socket
    ) -> WaylandConnection:
        """Create a filter between client and compositor.

        Raises PeerError at the limit of clients.
        """
        return WaylandConnection(
            client,
            compositor,
            self._rules,
            self._sandbox,
            self._machine,
            trace=self._tracer(number),
        )

    def stream(
        self,
        number: int,
        client: socket.socket,
        compositor: socket.socket,
        untrusted_head: bytes,
        arena: int = -1,
    ) -> StreamConnection:
        """Create a filter between a waypipe stream (its head was read) and compositor.

        ``arena``: the sandbox's, owned from the call on; -1: it has none. Raises
        PeerError at the limit of clients.
        """
        memory = None if arena < 0 else ArenaFile(arena)
        try:
            made = StreamConnection(
                client,
                compositor,
                self._rules,
                self._sandbox,
                self._memory,
                trace=self._tracer(number),
                arena=memory,
            )
        except BaseException:
            if memory is not None:
                memory.close()
            raise
        made.begin_with(untrusted_head)
        return made

    def _tracer(self, number: int) -> Callable[[str], None] | None:
        return None if self.trace is None else partial(self.trace.note, number)

    def _change(self, order: messages.FrameRules) -> None:
        """Apply changed rules: whole to new connections, in part to open ones.

        A connection that has used a removed permission is ended, the others cannot
        use it any more.  Open windows change their colour, and say that their sandbox
        asks; the other rules apply to future windows.
        """
        before, self._rules = self._rules, order.rules
        self._sandbox.bound_by(self._rules.ceilings)
        gone = takes_away(before, self._rules)
        for core in list(self._sandbox.filters):
            if gone is None or take_away(core, gone):
                core.fail(RefusedError("the sandbox's record now allows less"))
            # guard: open windows have the record's colour
            elif core.with_look(self._rules) != core.rules:
                core.change_look(self._rules)
            core.wake()

    # -- for the user ----------------------------------------------------------

    def obey(
        self,
        order: messages.FrameRules
        | messages.AskWindows
        | messages.CloseWindow
        | messages.RaiseWindow,
    ) -> Iterator[messages.Windows | messages.WindowClosed]:
        """Follow an order about windows; yield the answers."""
        match order:
            case messages.FrameRules():
                self._change(order)
            case messages.AskWindows(ask):
                yield from self._listed(ask)
            case messages.RaiseWindow(token):
                listing.raise_window(self._sandbox, token.encode())
            case messages.CloseWindow(ask, window, cut):
                yield messages.WindowClosed(ask, self._close(window, cut=cut))

    def _listed(self, ask: int) -> Iterator[messages.Windows]:
        """Yield messages with the list of windows, at least one."""
        found = [
            messages.WindowReport(
                w.number, w.title, w.app_id, w.width, w.height, w.focused
            )
            for w in listing.windows_of(self._sandbox)
        ]
        size = wayland_limits.WAYLAND_WINDOWS_PER_MESSAGE
        parts = [found[at : at + size] for at in range(0, len(found), size)] or [[]]
        for number, part in enumerate(parts, 1):
            yield messages.Windows(ask, part, last=number == len(parts))

    def _close(self, window: int, *, cut: bool) -> str:
        """Close a window, kindly or not; returns the problem, or nothing."""
        act = listing.cut if cut else listing.ask_to_close
        try:
            act(self._sandbox, window)
        except RefusedError as error:
            return error.message
        return ""

    def uses(self) -> list[messages.Use]:
        """Return every counter with its ceiling, and every rate that was exceeded."""
        totals, refused = self._sandbox.totals, self._sandbox.refused
        most = {**self._sandbox.ceilings, "copied_bytes": limits.WAYLAND_COPIED_BYTES}
        now = {**totals, "copied_bytes": self._machine.copied}
        if attention.IDLE_MANAGER in self._rules.allow:
            most["inhibitors"] = self._sandbox.ceilings["objects"]
            now["inhibitors"] = attention.count_awake(self._sandbox)
        return [
            messages.Use(what, now.get(what, 0), most.get(what, 0), refused[what])
            for what in [*most, *sorted(refused.keys() - most.keys())]
        ]

    async def tell_limits(self, outbox: Outbox) -> None:
        """Say which limits were hit, once a second at most for each."""
        while True:
            await trio.sleep(wayland_limits.WAYLAND_LIMITED_SECONDS)
            for message in self.limited():
                await outbox.send(message)

    def limited(self) -> list[messages.LimitHit]:
        """The limits that were hit since this was asked last."""
        refused = self._sandbox.refused
        more = {what: times - self._told[what] for what, times in refused.items()}
        self._told = Counter(refused)
        return [messages.LimitHit(what, n) for what, n in more.items() if n]


class Trace:
    """Lines for the broker's log, some at a time, so that nothing waits for it."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=wayland_limits.WAYLAND_TRACE_WAITING)
        self._noted = self._told = 0
        self._more = trio.Event()

    def note(self, client: int, line: str) -> None:
        """Take a line of a client's connection; the oldest are lost for it."""
        self._noted += 1
        self._lines.append(f"#{client} {line}"[: wayland_limits.WAYLAND_TRACE_CHARS])
        self._more.set()

    async def tell(self, outbox: Outbox) -> None:
        """Send the noted events, slower than the broker's limit of messages."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._lines:
                count = min(len(self._lines), wayland_limits.WAYLAND_TRACE_LINES)
                lost = self._noted - self._told - len(self._lines)
                lines = [self._lines.popleft() for _ in range(count)]
                self._told += lost + count
                await outbox.send(messages.Traced(lines, lost))
                await trio.sleep(2 / limits.WORKER_MESSAGES_PER_SECOND)
