"""The sound of one sandbox as its viewer has it: streams, level, microphone.

The worker parses; here it is decided, recorded and cut.  Two sockets of each
stream stay open here as well: whatever the worker does, shutting them down
ends the stream.

Where the microphone is wanted, ``vitrail.AudioInput`` is asked.  The permission
lasts while something records, and taking it away is awaited: a worker that does
not obey in time is ended, and its sound with it.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from broker.authority.audit import event_log
from broker.authority.permit import Permit
from broker.core import limits
from broker.core.errors import (
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.escape import printable
from broker.core.lease import Lease, Opening
from broker.core.limits import sound as pulse_limits
from broker.core.services import MICROPHONE
from broker.core.streams.sound_rules import Level, Microphone, Revoked, SoundRules
from broker.core.token_bucket import TokenBucket
from broker.host_and_viewer.stream_events import StreamEvents, StreamOutcome, last_words
from broker.ipc import worker
from broker.ipc.audit import schema
from broker.ipc.control.types.sound import SoundStatus
from broker.ipc.host_viewer import TaskStatus
from broker.net.connection_quota import SoundPlaces, SoundServerPlaces, SoundSlot
from broker.viewer.sound.levels import load_level, save_level
from broker.viewer.sound.sound_connection import reserve_sound, sound_connection
from broker.viewer.uses.use_signs import MICROPHONE as RECORDS
from policy.records.model import Record

if TYPE_CHECKING:
    from broker.viewer.authority.interface import Permits
    from broker.viewer.orders.session_orders import UserSession
    from broker.viewer.stream_reply import OpeningReply
    from broker.viewer.uses.use_signs import UseSigns
    from broker.viewer.workers.process import Worker

_OBEY_SECONDS = pulse_limits.PULSE_REVOKE_SECONDS + limits.WORKER_STOP_SECONDS
_PERCENT = 100
REVOKED_SECONDS = 60.0
"""How long a record is refused the microphone after the user took it back."""

Start = Callable[..., None]


def _unheard(_service: str, _reason: str) -> None:
    """Do nothing: no one attends a program here."""


class GuestSound:
    """Decides, records and cuts sound streams; the viewer sets ``decider``."""

    decider: Permits | None = None
    signs: UseSigns | None = None
    refused: Callable[[str, str], None] = staticmethod(_unheard)
    """Called with a service and the reason when it is refused."""

    def __init__(
        self,
        lease: Lease,
        record: Callable[[], Record | None],
        log: event_log.EventLog,
        *,
        ensure_worker: Callable[[], Awaitable[Worker]],
        start: Start,
        session: UserSession,
        levels: Callable[[], Path],
        revoked: dict[str, float],
        places: SoundServerPlaces,
    ) -> None:
        self._lease = lease
        self._record = record
        self._log = log
        self._events = StreamEvents(log)
        self._ensure_worker = ensure_worker
        self._start = start
        self._session = session
        self._levels = levels
        self._revoked = revoked
        self._worker: Worker | None = None
        self._told_rules: worker.Sound | None = None
        self._level: Level | None = None
        self._streams: dict[int, trio.Event] = {}
        self._ends: dict[int, worker.SoundClosed] = {}
        self._state = worker.SoundState(0, 0, False, False, "", "", "")  # noqa: FBT003
        self._changed = trio.Event()
        self._asking: trio.CancelScope | None = None
        self._allowed = False
        self._orders: dict[int, trio.Event] = {}
        self._order = 0
        self._active_since: float | None = None
        """Since when it is on record that it hears."""
        self.connected = False
        """Whether a program has connected to the sound server through the worker."""
        self._pace = TokenBucket(
            pulse_limits.PULSE_STATES_PER_SECOND, pulse_limits.PULSE_STATES_BURST
        )
        self.places = SoundPlaces(places, lease.record)
        """Of its connections to the sound server, filtered or not."""

    # -- streams -----------------------------------------------------------------

    @asynccontextmanager
    async def reserve(
        self, opening: Opening, conn: socket.socket, status: OpeningReply
    ) -> AsyncIterator[SoundSlot | None]:
        """Hold a place for a connection while the block runs; wait for one.

        Yields the place, None without one.  A connection that waits is accepted before it is decided.  Raises RefusedError.
        """
        record = self._record()
        if record is None or record.viewer.audio.playback == "none":
            yield None  # it is refused, and needs no place for that
            return
        async with AsyncExitStack() as reservation:
            try:
                waiting = reserve_sound(self.places, conn, status.take)
                slot = await reservation.enter_async_context(waiting)
            except RefusedError as error:
                if status.taken:
                    await self._events.refused(opening, str(error))
                raise
            yield slot

    async def stream(
        self,
        opening: Opening,
        conn: socket.socket,
        *,
        permit: Permit,
        say: Callable[[], Awaitable[None]],
        task_status: TaskStatus,
    ) -> None:
        """Filter one connection to the sound server; return at its end.

        The connection stays the caller's, who
        has a refusal to answer on it.
        Raises RefusedError where the record has no sound, else as ``sound_connection``.
        """
        record = self._record()
        if record is None or record.viewer.audio.playback != "allow":
            raise RefusedError(
                "the record does not allow the sandbox to play sound",
                hint=f"to allow sound, run 'brokerctl set {record.name if record else 'NAME'} sound on'",
            )
        async with sound_connection(self._session, permit, self.places) as server:
            mine = await self._worker_with_rules(record)
            async with self._events.carry(opening, "worker") as outcome:
                await say()
                task_status.started()
                await self._carry(mine, opening, (conn, server), outcome)

    async def _carry(
        self,
        mine: Worker,
        opening: Opening,
        socks: tuple[socket.socket, socket.socket],
        outcome: StreamOutcome,
    ) -> None:
        """Hand a sound stream to the worker; wait for its end; cut it if cancelled."""
        ended = self._streams[opening.stream] = trio.Event()
        try:
            order = worker.SoundStream(opening.stream)
            await mine.send(order, [sock.fileno() for sock in socks])
            await ended.wait()
        finally:
            for sock in socks:
                with suppress(OSError):  # it has ended already
                    sock.shutdown(socket.SHUT_RDWR)
            with trio.CancelScope(shield=True):
                await last_words(ended.wait)
            self._streams.pop(opening.stream, None)
            end = self._ends.pop(opening.stream, None)
            if end is not None:
                outcome.reason = printable(end.reason, 2000)
                outcome.counts = end.from_guest, end.to_guest

    async def _worker_with_rules(self, record: Record) -> Worker:
        """Start the worker if needed and send it the rules of sound; return it."""
        mine = await self._ensure_worker()
        if self._worker is not mine:
            self._told_rules = rules = self._rules(record)
            await mine.send(rules)
            self._worker = mine
            # The record may have become another one while that was sent.
            await self.follow_record(self._record() or record)
        self.connected = True
        return mine

    async def follow_record(self, record: Record) -> None:
        """Send the worker the sound rules of the changed record.

        Whether there is sound at all, and whether it may hear, is decided again
        by the code that decides about streams; here the bounds are sent.
        """
        rules = self._rules(record)
        if self._worker is None or rules == self._told_rules:
            return
        with suppress(UpstreamError):  # it has ended; the next one learns
            await self._worker.send(rules)
            self._told_rules = rules  # not before: this may be given up

    def _rules(self, record: Record) -> worker.Sound:
        """Return the order with the sound rules of a record."""
        audio = record.viewer.audio
        denied = audio.microphone == "deny"
        rules = SoundRules(
            self._lease.sandbox,
            # Whether it is asked or allowed, the supervisor decides each time.
            microphone=Microphone.DENY if denied else Microphone.ASK,
            revoked=Revoked(audio.revoked),
            streams=min(audio.streams, pulse_limits.PULSE_STREAMS_PER_SANDBOX),
            rate=audio.rate,
            channels=audio.channels,
            buffer_bytes=audio.buffer,
            volume=audio.volume * pulse_limits.PULSE_VOLUME // _PERCENT,
            idle_seconds=audio.idle,
        )
        return worker.Sound(rules, self.level)

    async def gone(self) -> None:
        """The worker has ended, perhaps with the lease: that is shown and recorded."""
        was = self._state.active
        self.worker_gone()
        # guard: the log records when a sandbox's sound ends
        await self._record_active(was)

    def worker_gone(self) -> None:
        """End all streams of a worker that has ended."""
        self._worker = None
        for ended in self._streams.values():
            ended.set()
        for done in self._orders.values():
            done.set()
        self._take_state(worker.SoundState(0, 0, False, False, "", "", ""))  # noqa: FBT003

    # -- what the worker says ----------------------------------------------------

    async def take(self, message: worker.FromSound) -> None:
        """Handle a message of the worker, whose claims may be hostile."""
        match message:
            case worker.SoundClosed():
                ended = self._streams.get(message.stream)
                if ended is not None:  # else a worker that makes up numbers
                    self._ends[message.stream] = message
                    ended.set()
                if message.fault is worker.Fault.CLIENT:
                    await self._broke(f"sound: {printable(message.reason, 2000)}")
            case worker.SoundState():
                early = self._pace.take(trio.current_time())
                if early > 0:  # each may be an event on disk
                    await trio.sleep(early)
                was = self._state
                self._take_state(message)
                await self._record_active(was.active)
            case worker.SoundRefused():
                await self._broke(
                    f"sound: {printable(message.command, 60)} "
                    f"({printable(message.what, 200)}), {message.count} times"
                )
            case worker.MicrophoneSet():
                done = self._orders.pop(message.number, None)
                if done is not None:
                    done.set()

    async def _broke(self, reason: str) -> None:
        """Record in the audit log that a sound connection broke the protocol."""
        await self._log.refused(
            schema.StreamRefused(
                **event_log.of(self._lease), outcome="refused", reason=reason
            )
        )

    def _take_state(self, state: worker.SoundState) -> None:
        """Apply the worker's report of sound: indicator, log, microphone."""
        was, self._state = self._state, state
        self._tell_changed()
        if state.active != was.active and self.signs is not None:
            name, source = self._lease.sandbox, state.source
            self.signs.show(RECORDS, name, active=state.active, source=source)
        if state.wanted and self._asking is None:
            self._asking = trio.CancelScope()
            self._start(self._microphone)

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _record_active(self, was: bool) -> None:  # noqa: FBT001
        """Record that the microphone was opened or closed."""
        if self._state.active == was:
            return
        now = trio.current_time()
        whose = event_log.of(self._lease)
        if not self._state.active:
            since, self._active_since = self._active_since, None
            if since is not None:
                off = schema.MicrophoneOff(**whose, seconds=now - since)
                await self._log.note(off)
            return
        try:
            # A worker that was taken over may say this ten times a second.
            # guard: the microphone asks the share
            self._log.check_share(self._lease)
        except RefusedError as error:
            if self._asking is not None:
                self._asking.cancel()
            await self._broke(f"microphone: {error.message}")
            return
        self._active_since = now
        await self._log.note(schema.MicrophoneOn(**whose))

    # -- the microphone ------------------------------------------------------------

    async def _microphone(self) -> None:
        """Ask for the microphone's permit each time that a program begins to record."""
        try:
            while self._state.wanted:
                with trio.CancelScope() as self._asking:
                    await self._permitted()
                if self._asking.cancelled_caught:  # the user has taken it away
                    await self._wait_unwanted()
        finally:
            self._asking = None

    async def _permitted(self) -> None:
        """Hold the microphone's permit while a program records."""
        # Late: deciding imports much, and tests of this module need none of it.
        from broker.authority.permit import Request

        if self.decider is None:
            return  # there is no decider, so it stays silent
        request = Request(lease=self._lease, service=MICROPHONE, counts_bytes=False)
        try:
            self._check_revoked()
            async with self.decider.permit(request):
                await self._while_allowed()
        except RefusedError as error:
            self.refused(MICROPHONE, str(error))
            await self._hear(worker.Hearing.DENY)
            await self._wait_unwanted()

    def _check_revoked(self) -> None:
        """Raise RefusedError if the user has just taken the microphone back."""
        now = trio.current_time()
        # guard: a microphone that was taken back is not opened again at once
        if now < self._revoked.get(self._lease.record, now):
            raise RefusedError(
                "the user revoked access to the microphone",
                hint=f"wait {REVOKED_SECONDS:.0f} seconds, then record again",
            )

    async def _while_allowed(self) -> None:
        """Allow the microphone at the worker until no program wants it."""
        hearing = worker.Hearing.DENY
        try:
            self._allowed = True
            await self._hear(worker.Hearing.ALLOW)
            await self._wait_unwanted()
            hearing = worker.Hearing.REST
        finally:
            with trio.CancelScope(shield=True):
                await self._hear(hearing)
            self._allowed = False
            self._tell_changed()

    async def _wait_unwanted(self) -> None:
        while self._state.wanted:
            await self._changed.wait()

    async def _hear(self, hearing: worker.Hearing) -> None:
        """Order the worker to allow or deny the microphone; wait until it has."""
        mine = self._worker
        if mine is None:
            return
        self._order += 1
        number = self._order
        done = self._orders[number] = trio.Event()
        try:
            await mine.send(worker.MicrophoneOrder(number, hearing))
            with trio.fail_after(_OBEY_SECONDS):
                await done.wait()
        except trio.TooSlowError:
            await mine.close("it did not change the recorded source")
        except UpstreamError:
            return  # it has ended, and nothing is heard
        finally:
            self._orders.pop(number, None)

    # -- the mixer (mixer.Desk) -----------------------------------------------------

    @property
    def level(self) -> Level:
        """The user's setting in the mixer; read from disk until a worker has it."""
        # brokerctl stores a level for the next connection while there is none.
        if self._level is None or self._worker is None:
            self._level = load_level(self._levels(), self._lease.record)
        return self._level

    def status(self) -> SoundStatus:
        """Return the sandbox's sound status: volume, streams, microphone."""
        record = self._record()
        rule = "deny" if record is None else record.viewer.audio.microphone
        return SoundStatus(
            sandbox=self._lease.sandbox,
            volume=self.level.volume,
            muted=self.level.muted,
            streams=self._state.streams,
            idle=self._state.idle,
            rule=rule,
            wanted=self._state.wanted,
            allowed=self._allowed,
            active=self._state.active,
            application=printable(self._state.application, 120),
            source=printable(self._state.source, 200),
            missing=printable(self._state.missing, 200),
        )

    async def set_level(self, level: Level) -> None:
        """Set the sandbox's volume and mute, and store them.  Raises OSError."""
        save_level(self._levels(), self._lease.record, level)
        self._level = level
        if self._worker is not None:
            with suppress(VitrailError):  # it has ended; the next one learns
                await self._worker.send(worker.SoundLevel(level.volume, level.muted))

    async def set_microphone(self, *, allow: bool) -> None:
        """Take the microphone away; rules alone can give it.  Raises RefusedError."""
        if allow:
            raise RefusedError(
                f"cannot allow the microphone: rules for {MICROPHONE} decide whether "
                f"{self._lease.sandbox} may record",
                hint="to see which rule applies, run 'brokerctl policy explain "
                f"{MICROPHONE} {self._lease.sandbox}'",
            )
        self._revoked[self._lease.record] = trio.current_time() + REVOKED_SECONDS
        if self._asking is not None:
            self._asking.cancel()
        with trio.move_on_after(_OBEY_SECONDS + limits.WORKER_STOP_SECONDS) as patience:
            while self._allowed or self._state.active:
                await self._changed.wait()
        if patience.cancelled_caught and self._worker is not None:
            await self._worker.close(
                "it reported that it is recording from a forbidden source"
            )
