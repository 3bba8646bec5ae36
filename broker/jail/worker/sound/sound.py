"""Sound inside the worker: filters of one sandbox, and their reports.

Events that a guest can cause are reported as states and counts at a bounded pace,
never as one message for each action: a worker that sends too much is ended.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from broker.core.errors import InternalError, PeerError, VitrailError
from broker.core.escape import printable
from broker.core.streams.sound_rules import Level
from broker.ipc import worker as messages
from broker.jail.sound import events
from broker.jail.sound.filter import COOKIE_BYTES
from broker.jail.sound.sandbox import SoundSandbox
from broker.jail.worker.sound.connection import PulseConnection, PulseService
from broker.wire import fdpass

Order: TypeAlias = (
    messages.Sound
    | messages.SoundStream
    | messages.SoundLevel
    | messages.MicrophoneOrder
)
Say = Callable[[messages.FromWorker], Awaitable[None]]

_TELL_SECONDS = 0.2
"""Between two messages about states: faster than a user looks."""
_IDLE_LOOK_SECONDS = 2.0
"""Between two checks for idle streams; becoming idle is not an event."""
_REFUSALS = 64
"""Kinds of refusals that are counted at one time; there are as many commands."""


class WorkerSound:
    """All sound of the sandbox; nothing is served before ``Sound`` has come."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._service: PulseService | None = None
        self._changed = trio.Event()
        self._application = self._source = self._missing = ""
        self._opened = False
        """Whether the source has been open since the last report of that."""
        self._refused: dict[str, tuple[str, int]] = {}

    def obey(self, order: Order, fds: tuple[int, ...], nursery: trio.Nursery) -> None:
        """Follow an order of the supervisor; takes ``fds`` over."""
        match order:
            case messages.Sound():
                if self._service is None:
                    self._begin(order)
                    nursery.start_soon(self._tell)
                else:
                    now = trio.current_time()
                    self._service.sandbox.set_rules(order.rules, now)
                    self._changed.set()
            case messages.SoundStream(stream):
                if len(fds) != 2:
                    fdpass.close_all(fds)
                    raise InternalError("a sound stream requires two descriptors")
                client, server = (socket.socket(fileno=fd) for fd in fds)
                nursery.start_soon(self._serve, stream, client, server)
            case messages.SoundLevel(volume, muted):
                self._running().sandbox.set_level(Level(volume, muted))
            case messages.MicrophoneOrder():
                nursery.start_soon(self._microphone, order)

    def _running(self) -> PulseService:
        if self._service is None:
            raise InternalError("received an order for sound before its rules")
        return self._service

    def _begin(self, order: messages.Sound) -> None:
        sandbox = SoundSandbox(order.rules, self._event, order.level)
        # Without the user's cookie: the server knows us by our user id, and with
        # the cookie a worker that was taken over could be the user elsewhere.
        cookie = bytes(COOKIE_BYTES)
        self._service = PulseService(sandbox, cookie)

    async def _serve(
        self, stream: int, client: socket.socket, server: socket.socket
    ) -> None:
        """Serve one connection of a sound client to its end."""
        service = self._running()
        with client, server:
            mine = PulseConnection(client, server, service.sandbox, service.cookie)
            service.connections.add(mine)
            try:
                await mine.run()
            finally:
                service.connections.discard(mine)
        fault = mine.core.fault
        await self._say(
            messages.SoundClosed(
                stream,
                mine.from_client,
                mine.to_client,
                messages.clip("closed" if fault is None else str(fault)),
                _fault_of(fault),
            )
        )

    async def _microphone(self, order: messages.MicrophoneOrder) -> None:
        """Allow, rest or end the microphone by the viewer's order."""
        service = self._running()
        now = trio.current_time()
        match order.hearing:
            case messages.Hearing.ALLOW:
                service.sandbox.allow_microphone(now)
            case messages.Hearing.REST:
                service.sandbox.rest_microphone(now)
            case messages.Hearing.DENY:
                await service.revoke_microphone()
        await self._say(messages.MicrophoneSet(order.number))

    # -- reports -----------------------------------------------------------------

    def _event(self, event: events.SoundEvent) -> None:
        """Note an event of the filter, and have the state sent."""
        match event:
            case events.MicrophoneWanted(application):
                self._application, self._missing = printable(application, 120), ""
            case events.MicrophoneActive(active, source):
                if active:
                    self._opened, self._source = True, printable(source, 200)
            case events.MicrophoneMissing(reason):
                self._missing = printable(reason, 200)
            case events.CommandRefused(command, what):
                _, count = self._refused.get(command, ("", 0))
                if count or len(self._refused) < _REFUSALS:
                    self._refused[command] = (printable(what, 200), count + 1)
            case events.Flooded():
                what = "more samples than the sound server requested"
                _, count = self._refused.get("samples", ("", 0))
                self._refused["samples"] = (what, count + 1)
            case _:
                pass
        self._changed.set()

    async def _tell(self) -> None:
        """Send the sound's state to the viewer after each change."""
        said: messages.SoundState | None = None
        while True:
            with trio.move_on_after(_IDLE_LOOK_SECONDS):
                await self._changed.wait()
            self._changed = trio.Event()
            state = self._state()
            if self._opened and not self._running().sandbox.active:
                self._changed.set()  # the next report shows that it is closed
            self._opened = False
            if state != said:
                said = state
                await self._say(state)
            refused, self._refused = self._refused, {}
            for command, (what, count) in refused.items():
                await self._say(messages.SoundRefused(command, what, count))
            await trio.sleep(_TELL_SECONDS)

    def _state(self) -> messages.SoundState:
        """Return the sound's state for the viewer."""
        sandbox = self._running().sandbox
        # However short it was: unreported use is not shown and not recorded.
        active = sandbox.active or self._opened
        return messages.SoundState(
            streams=len(sandbox.playbacks),
            idle=sandbox.idle(trio.current_time()),
            wanted=sandbox.wanted,
            active=active,
            application=self._application,
            source=self._source if active else "",
            missing=self._missing,
        )


def _fault_of(fault: VitrailError | None) -> messages.Fault:
    """Return the kind of a fault, for the audit log."""
    if fault is None:
        return messages.Fault.NONE
    if isinstance(fault, PeerError):
        return messages.Fault.CLIENT
    if isinstance(fault, InternalError):
        return messages.Fault.OURS
    return messages.Fault.NONE
