"""Sound of a worker that runs without a broker: the user decides, not rules."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import trio

from broker.cli.proxy.lone_worker import report_worker
from broker.core import limits
from broker.core.errors import (
    PeerError,
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.limits import sound as pulse_limits
from broker.core.stderr_log import log_stderr
from broker.core.streams.sound_rules import Level, Microphone, SoundRules
from broker.ipc import worker
from broker.ipc.control.types.sound import SoundStatus
from broker.net.connection_quota import SoundPlaces
from broker.viewer.sound.levels import save_level
from broker.viewer.uses.use_signs import MICROPHONE, UseSigns
from broker.viewer.workers.process import Worker

_OBEY_SECONDS = pulse_limits.PULSE_REVOKE_SECONDS + limits.WORKER_STOP_SECONDS
_REASON = 2000


class Printer(Protocol):
    """Prints reports of the worker, and errors."""

    def event(self, untrusted: worker.FromSound) -> None:
        """Print a report."""
        ...

    def failed(self, error: VitrailError) -> None:
        """Print an error."""
        ...


class LoneSound:
    """Programs' connections to the sound server, and the mixer's desk of them.

    See ``viewer.sound.mixer.Desk``.
    """

    levels: Path | None = None
    """Where the level is stored; None: nowhere."""

    def __init__(
        self,
        mine: Worker,
        rules: SoundRules,
        level: Level,
        *,
        connect: Callable[[], Awaitable[socket.socket]],
        told: Printer,
        signs: UseSigns,
    ) -> None:
        self._worker = mine
        self._rules = rules
        self._level = level
        self._connect = connect
        self._told = told
        self._signs = signs
        self._streams = 0
        self._orders = 0
        self._ended: dict[int, trio.Event] = {}
        self._obeyed: dict[int, trio.Event] = {}
        self._allowed = rules.microphone is Microphone.ALLOW
        self._state = worker.SoundState(0, 0, False, False, "", "", "")  # noqa: FBT003
        self.places = SoundPlaces()

    async def begin(self) -> None:
        """Send the worker its rules.  Raises UpstreamError."""
        await self._worker.send(worker.Sound(self._rules, self._level))

    async def program(self, client: socket.socket) -> None:
        """Have the worker serve an accepted connection to its end; close the socket."""
        self._streams += 1
        number = self._streams
        async with AsyncExitStack() as held:
            held.enter_context(client)
            try:
                # guard: clients at one time
                await held.enter_async_context(self.places.reserve())
                server = held.enter_context(await self._connect())
                ended = self._ended[number] = trio.Event()
                fds = [client.fileno(), server.fileno()]
                await self._worker.send(worker.SoundStream(number), fds)
                await ended.wait()
            except (RefusedError, UpstreamError) as error:
                self._told.failed(error)
            finally:
                self._ended.pop(number, None)

    async def report(self) -> None:
        """Handle the worker's reports.  Raises UpstreamError when it ends."""
        await report_worker(self._worker, self.take)

    def take(self, untrusted: object) -> None:
        """Handle a report of the worker; what is not about sound is ignored."""
        match untrusted:
            case worker.SoundClosed():
                self._closed(untrusted)
            case worker.SoundState():
                self._follow(untrusted)
            case worker.SoundRefused():
                self._told.event(untrusted)
            case worker.MicrophoneSet(number):
                done = self._obeyed.get(number)
                if done is not None:
                    done.set()
            case _:
                pass  # about windows, of which it has none

    def _closed(self, end: worker.SoundClosed) -> None:
        """End a connection; print why, if it did not end by itself."""
        ended = self._ended.get(end.stream)
        if ended is not None:
            ended.set()
        reason = printable(end.reason, _REASON)
        if end.fault is worker.Fault.OURS:
            # guard: mistakes of the sound proxy drive no terminal
            log_stderr(reason)
        elif end.fault is worker.Fault.CLIENT:
            self._told.failed(PeerError(reason))
        elif reason != "closed":
            self._told.failed(UpstreamError(reason))

    def _follow(self, state: worker.SoundState) -> None:
        """Keep the worker's state, and show the use of the microphone."""
        was, self._state = self._state, state
        if state.active != was.active:
            source = printable(state.source, 200)
            name, active = self._rules.name, state.active
            self._signs.show(MICROPHONE, name, active=active, source=source)
        self._told.event(state)

    # -- the mixer -----------------------------------------------------------------

    def status(self) -> SoundStatus:
        """The current status."""
        state = self._state
        return SoundStatus(
            sandbox=self._rules.name,
            volume=self._level.volume,
            muted=self._level.muted,
            streams=state.streams,
            idle=state.idle,
            rule=self._rules.microphone.value,
            wanted=state.wanted,
            allowed=self._allowed,
            active=state.active,
            application=printable(state.application, 120),
            source=printable(state.source, 200),
            missing=printable(state.missing, 200),
        )

    async def set_level(self, level: Level) -> None:
        """Set and store the volume.  Raises OSError, UpstreamError."""
        if self.levels is not None:
            save_level(self.levels, self._rules.name, level)
        self._level = level
        await self._worker.send(worker.SoundLevel(level.volume, level.muted))

    async def set_microphone(self, *, allow: bool) -> None:
        """Allow or deny the sandbox the microphone.

        Returns when the change is in effect.  Raises RefusedError if the filter was
        started without one, UpstreamError when the worker does not obey; then it ends.
        """
        if allow and self._rules.microphone is Microphone.DENY:
            raise RefusedError(
                "cannot allow the microphone: the sound filter was started with "
                "--microphone deny",
                hint="start 'brokerctl proxy pulse' again with --microphone ask",
            )
        self._orders += 1
        number = self._orders
        done = self._obeyed[number] = trio.Event()
        hearing = worker.Hearing.ALLOW if allow else worker.Hearing.DENY
        try:
            await self._worker.send(worker.MicrophoneOrder(number, hearing))
            with trio.fail_after(_OBEY_SECONDS):
                await done.wait()
        except trio.TooSlowError as error:
            # guard: a filter alone that does not give the microphone back ends
            await self._worker.close("it did not change the recorded source")
            raise UpstreamError("the filter did not obey, and was ended") from error
        finally:
            del self._obeyed[number]
        self._allowed = allow
