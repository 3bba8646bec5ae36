"""One client's connection to the sound server: bytes in, bytes out.

Permissions
    A sandbox plays; it sees one sink and its streams and connections; where the
    rules allow, it sees one source and records from it.

Restrictions
    A sandbox may not load modules, touch devices, defaults, samples or others'
    streams, choose where sound goes or comes from, learn of other clients, share
    memory, send more than was requested.  A command that is known and not allowed
    is answered "access denied"; a violation of the protocol ends the connection.

Trust
    The sound server is trusted for the form of its messages.  Its data about
    others are still not passed on: indexes are ours, names are ours.

How numbers stay right
    The client's tags never reach the server; ours do, with a note of who asked
    and what becomes of the answer.  Channels of playback streams are the
    server's (it counts them for each connection); those of recordings are ours.

The owner of a filter feeds it the bytes that it read, sends the content of ``up``
(to the server) and ``down`` (to the client), and calls ``tick`` at ``deadline``.
Time is any clock that only grows, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    UpstreamError,
    VitrailError,
)
from broker.core.limits import sound as limits
from broker.core.token_bucket import TokenBucket
from broker.jail.sound import (
    frames,
    introspection,
    playback_commands,
    recording,
    server_events,
)
from broker.jail.sound.commands import (
    NOT_FROM_CLIENTS,
    OLDEST_VERSION,
    REFUSED,
    REQUESTS,
    VERSION,
    ChangeKind,
    Command,
    Error,
    Facility,
    SoundRefusedError,
    Way,
)
from broker.jail.sound.conversation import Conversation
from broker.jail.sound.playback_stream import Playback
from broker.jail.sound.sandbox import SoundSandbox
from broker.jail.sound.tagstruct import Fields, Properties, Reader, encode

COOKIE_BYTES = 256
_VERSION_BITS = 0xFFFF


class PulseFilter(Conversation):
    """One connection.  ``fault`` is why it must end, None while it runs."""

    def __init__(
        self,
        sandbox: SoundSandbox,
        cookie: bytes,
        now: float,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(sandbox, wake)
        self.fault: VitrailError | None = None
        self.version = 0
        """In force between client and server; 0 until both have stated theirs."""
        self.ready = False
        """Whether both sides have introduced themselves."""
        self.index = sandbox.new_index()
        self.properties: Properties = {}
        self.playbacks: dict[int, Playback] = {}
        self.creating = 0
        """Streams that the server has been asked for and has not made yet."""
        self.recordings = recording.Recordings(self)
        self._cookie = cookie
        self._client = frames.Cutter(limits.PULSE_COMMAND_BYTES)
        self._server = frames.Cutter(limits.PULSE_ANSWER_BYTES)
        self._asked_version = 0
        self._named = False
        self._syncs = 0
        self._subscribed = 0
        self._pace = TokenBucket(
            limits.PULSE_COMMANDS_PER_SECOND, limits.PULSE_COMMANDS_BURST
        )
        self._resume: float | None = None
        self._give_up = now + limits.PULSE_HANDSHAKE_SECONDS
        self.now = now
        sandbox.connections += 1
        # guard: connections
        if sandbox.connections > limits.PULSE_CONNECTIONS:
            most = limits.PULSE_CONNECTIONS
            self.fault = RefusedError(f"the sandbox has {most} sound connections")

    # -- facts ---------------------------------------------------------------

    @property
    def application(self) -> str:
        """The client's own name for itself, safe to display."""
        name = self.properties.get("application.name", b"").rstrip(b"\0").decode()
        return self.sandbox.labels.bare(name)

    @property
    def stalled(self) -> bool:
        """Return whether no more of the client's bytes are handled now."""
        # guard: the filter reads no more from a client that does not read
        return (
            self.fault is not None
            or self._resume is not None
            or (not self.ready and self._waits_for_the_server)
            or self.is_crowded
            or len(self.down.data) > limits.PULSE_QUEUE_BYTES
        )

    @property
    def is_crowded(self) -> bool:
        """Return whether the queue to the sound server is full."""
        # guard: outstanding commands
        return (
            self.outstanding >= limits.PULSE_OUTSTANDING
            or len(self.up) > limits.PULSE_QUEUE_BYTES
        )

    @property
    def _waits_for_the_server(self) -> bool:
        """Return whether the handshake's next word is the server's."""
        return (self._asked_version != 0 and self.version == 0) or self._named

    @property
    def deadline(self) -> float | None:
        """Return when ``tick`` must be called next; None if it need not be."""
        if self.fault is not None:
            return None
        due = self.recordings.deadline if self.recordings.by_channel else None
        if self._resume is not None and (due is None or self._resume < due):
            due = self._resume
        if not self.ready and (due is None or self._give_up < due):
            due = self._give_up
        return due

    # -- what the owner calls ------------------------------------------------

    def from_client(self, untrusted_data: bytes, now: float) -> None:
        """Take bytes of the client; never raises for their content."""
        if self.passes_samples(untrusted_data, now):
            self.send_up(untrusted_data)
            return
        self.feed_client(untrusted_data, now)

    def feed_client(self, untrusted_data: bytes, now: float) -> None:
        """The same for what ``passes_samples`` has refused."""
        self.now = now
        self._client.push(untrusted_data)
        self._run(self._read_client)

    def from_server(self, data: bytes, now: float) -> None:
        """Handle bytes of the sound server; never raises for their content."""
        if self.passes_request(data, now):
            self.down.add(data)
            self.wake()
            return
        self.feed_server(data, now)

    def feed_server(self, data: bytes, now: float) -> None:
        """The same for what ``passes_request`` has refused."""
        self.now = now
        self._server.push(data)
        self._run(self._read_server)

    def resume(self, now: float) -> None:
        """Continue with the client's bytes after the sender has made room."""
        self.now = now
        self._run(self._read_client)

    def tick(self, now: float) -> None:
        """Do the timed work of the connection; fails it if the handshake is late."""
        self.now = now
        # guard: handshake deadline
        if not self.ready and now >= self._give_up:
            self.fail(
                PeerError(
                    "the handshake with the sound server was not complete within "
                    f"{limits.PULSE_HANDSHAKE_SECONDS:.0f} s"
                )
            )
        if self._resume is not None and now >= self._resume:
            self._resume = None
        self._run(self._tick)

    def _tick(self) -> None:
        self.recordings.tick(self.now)
        self._read_client()

    def fail(self, error: VitrailError) -> None:
        """End the connection for that reason; the first one counts."""
        if self.fault is None:
            self.fault = error

    def close(self) -> None:
        """Remove the ended connection and its streams from the sandbox's state."""
        self.sandbox.connections -= 1
        for stream in list(self.playbacks.values()):
            stream.end()
        self.recordings.close()
        # guard: last words are silent
        self.down.silence()  # no revoke finds what still leaves
        if self.sandbox.members.pop(self.index, None) is not None:
            self.sandbox.announce(Facility.CLIENT, ChangeKind.REMOVE, self.index)

    def _run(self, step: Callable[[], None]) -> None:
        """Run a step; its error becomes the connection's fault."""
        if self.fault is not None:
            return
        try:
            step()
        except VitrailError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 -- see there
            self._mistake(error)

    def _mistake(self, error: Exception) -> None:
        """Fail the connection by an internal error."""
        # An internal error that some input found ends this connection; the
        # sandbox's others, and its windows, live in the same process.
        internal = InternalError(
            f"the sound filter failed: {type(error).__name__}: {error}"
        )
        internal.__cause__ = error
        self.fail(internal)

    # -- what most bytes are -------------------------------------------------

    # A stream that plays is a REQUEST and a frame of samples, again and again,
    # mostly each read alone.  These two do with them what ``from_client``
    # and ``from_server`` would do, to the byte, without taking them apart.

    def passes_samples(self, untrusted_data: frames.Bytes, now: float) -> bool:
        """Return whether client bytes are samples that pass unchanged.

        Account for them.

        True: the caller sends them, after the content of ``up``.  False:
        nothing has happened, they are for ``feed_client``.  While ``stalled``,
        too: the stalled data are commands, and they wait where ``between`` sees
        them.
        """
        try:
            plain = frames.plain_samples(untrusted_data)
            # guard: a frame inside a frame
            if plain is None or not self._client.between or self.fault is not None:
                return False
            channel, sizes = plain
            stream = self.playbacks.get(channel)
            return stream is not None and stream.passes(sizes, now)
        except Exception as error:  # noqa: BLE001 -- see there
            self._mistake(error)
            return False

    def passes_request(self, data: bytes, now: float) -> bool:
        """Return whether server bytes are sample requests that pass; account for them.

        True: the caller sends the bytes to the client unchanged, after those in
        ``down``.  As ``passes_samples``, it may have added bytes to ``up``.
        """
        try:
            requests = frames.plain_requests(data)
            if requests is None or not self._server.between or self.fault is not None:
                return False
            if not all(channel in self.playbacks for channel, _ in requests):
                return False
            self.now = now
            for channel, count in requests:
                self.playbacks[channel].requested(count)
        except Exception as error:  # noqa: BLE001 -- see there
            self._mistake(error)
            return False
        return True

    # -- from the client -----------------------------------------------------

    def _read_client(self) -> None:
        """Handle the client's frames, unless it is to wait."""
        while not self.stalled:
            frame = self._client.next()
            if frame is None:
                return
            if isinstance(frame, frames.Samples):
                self._samples(frame)
                continue
            # guard: pace of commands
            self.slow_down(self._pace.take(self.now))
            # guard: pace of a sandbox
            self.slow_down(self.sandbox.pace.take(self.now))
            self._command(frame.body)

    def slow_down(self, seconds: float) -> None:
        """Look at nothing more of the client before that."""
        if seconds > 0:
            self._resume = max(self._resume or 0.0, self.now + seconds)

    def _samples(self, part: frames.Samples) -> None:
        if not self.ready:
            raise PeerError("received samples before the handshake")
        stream = self.playbacks.get(part.channel)
        if stream is not None:  # else the stream has just been deleted
            stream.write(part, self.now)

    def _command(self, body: bytes) -> None:
        """Handle a command of the client: answer, forward or refuse it."""
        untrusted_number, tag = frames.head(body)
        try:
            number = Command(untrusted_number)
        except ValueError:
            raise PeerError(f"unknown command {untrusted_number}") from None
        # guard: servers' commands
        if number in NOT_FROM_CLIENTS:
            raise PeerError(f"clients must not send {number.name}")
        if not self.ready:
            self._handshake(number, tag, body)
            return
        try:
            self._allowed(number, tag, body)
        except SoundRefusedError as refusal:
            self.refuse(number, tag, refusal)

    def _allowed(self, number: Command, tag: int, body: bytes) -> None:
        """Handle a command by its table row.

        Raises SoundRefusedError for a denied one.
        """
        reader = Reader(body, frames.HEAD_BYTES)
        if number in REFUSED:
            reader.skip_all()
            # guard: unknown is denied
            raise SoundRefusedError(Error.ACCESS, "the command is denied")
        request = REQUESTS[number]
        signature = request.signature(self.version)
        fields = reader.fields(signature)
        # guard: a PulseAudio command ends with its last field
        reader.end()
        if request.way is Way.HANDSHAKE:
            raise PeerError(f"received {number.name} twice")
        if request.way is Way.EMPTY:
            self.reply(tag)
        elif request.way is Way.PLAYBACK:
            self.playback(fields)
            self.relay(tag, number, encode(signature, fields))
        else:
            _HANDLERS[number](self, tag, fields)

    # -- the handshake -------------------------------------------------------

    def _handshake(self, number: Command, tag: int, body: bytes) -> None:
        """Handle a command before the client is known: version, cookie, name."""
        reader = Reader(body, frames.HEAD_BYTES)
        if number is Command.AUTH and not self._asked_version:
            fields = reader.fields("Lx")
            reader.end()
            self._authenticate(tag, fields)
        elif number is Command.SET_CLIENT_NAME and self.version and not self._named:
            fields = reader.fields("P")
            reader.end()
            self._named = True
            self._introduce(tag, fields.properties(0))
        else:
            raise PeerError(f"received {number.name} during the handshake")

    def _authenticate(self, tag: int, fields: Fields) -> None:
        """Answer the client's AUTH: authenticate with our cookie, share no memory."""
        # guard: no shared memory for the server
        version = min(fields.number(0) & _VERSION_BITS, VERSION)
        if version < OLDEST_VERSION:
            self.error(tag, Error.VERSION)
            raise PeerError(f"unsupported protocol version {version}")
        self._asked_version = version

        def answered(reader: Reader) -> None:
            # guard: no shared memory for the client
            theirs = reader.fields("L").number(0) & _VERSION_BITS
            if theirs < OLDEST_VERSION:
                self.error(tag, Error.VERSION)
                raise UpstreamError(
                    f"the sound server has protocol version {theirs}; the oldest supported is {OLDEST_VERSION}"
                )
            self.version = min(version, theirs)
            self.reply(tag, encode("L", [self.version]))

        def failed(code: int) -> None:
            self.error(tag, code)
            raise UpstreamError(
                f"the sound server rejected the authentication (error {code})",
                hint="check that the sound server accepts your user",
            )

        # guard: our own cookie
        self.ask(Command.AUTH, encode("Lx", [version, self._cookie]), answered, failed)

    def _introduce(self, tag: int, untrusted_properties: Properties) -> None:
        """Send the client's name to the server, with the sandbox's label."""
        self.properties = self.sandbox.labels.client(untrusted_properties)

        def answered(reader: Reader) -> bytes:
            reader.fields("L")
            reader.end()
            self.ready = True
            self.sandbox.members[self.index] = self
            self.sandbox.announce(Facility.CLIENT, ChangeKind.NEW, self.index)
            return encode("L", [self.index])

        self.relay(
            tag, Command.SET_CLIENT_NAME, encode("P", [self.properties]), answered
        )

    # -- subscriptions -------------------------------------------------------

    def subscribe(self, mask: int) -> None:
        """Remember the client's subscriptions."""
        self._subscribed = mask

    def notify(self, facility: Facility, change: ChangeKind, index: int) -> None:
        """Report a change, if the client has subscribed to it."""
        if self._subscribed & (1 << facility) and self.fault is None:
            # guard: unread news
            if len(self.down.data) > 2 * limits.PULSE_QUEUE_BYTES:
                self.fail(PeerError("the client does not read its events"))
                self.wake()
                return
            self.event(
                Command.SUBSCRIBE_EVENT, encode("LL", [facility | change, index])
            )

    # -- what handlers look up -----------------------------------------------

    def playback(self, fields: Fields) -> Playback:
        """Return this connection's stream of a channel (the first field).

        Raises SoundRefusedError.
        """
        stream = self.playbacks.get(fields.number(0))
        if stream is None:
            raise SoundRefusedError(Error.NOENTITY, "no such stream")
        return stream

    def own_playback(self, index: int) -> Playback:
        """Return the sandbox's stream of an index; the streams of others do not exist.

        Raises SoundRefusedError.
        """
        # guard: own streams by index
        stream = self.sandbox.playbacks.get(index)
        if stream is None:
            raise SoundRefusedError(
                Error.ACCESS, f"sink input {index} does not belong to the sandbox"
            )
        return stream

    def check_room(self) -> None:
        """There must be a place for one more stream.  Raises SoundRefusedError."""
        own = len(self.playbacks) + len(self.recordings.by_channel) + self.creating
        # guard: streams
        if own >= limits.PULSE_STREAMS_PER_CONNECTION or not self.sandbox.has_room():
            raise SoundRefusedError(Error.TOOLARGE, "too many streams")

    def new_sync(self) -> int:
        """A number of streams that belong together; each belongs to itself."""
        self._syncs += 1
        return self._syncs

    def may_retitle(self) -> None:
        """Count a change of a name.  Raises SoundRefusedError if there were too many."""
        # guard: titles
        if self.sandbox.titles.take(self.now) > 0:
            raise SoundRefusedError(Error.ACCESS, "the client changes names too often")

    # -- from the server -----------------------------------------------------

    def _read_server(self) -> None:
        """Handle the server's frames."""
        while (frame := self._server.next()) is not None:
            try:
                if isinstance(frame, frames.Samples):
                    self.recordings.heard(frame, self.now)
                else:
                    self._answer(frame.body)
            except PeerError as error:
                if self.fault is None:
                    raise UpstreamError(f"the sound server: {error}") from error
                raise
        self._read_client()  # an answer may have made room

    def _answer(self, body: bytes) -> None:
        """Give a server's answer or error to the command that waits for it."""
        number, tag = frames.head(body)
        reader = Reader(body, frames.HEAD_BYTES)
        if number == Command.REPLY:
            self.pending_of(tag).done(reader)
        elif number == Command.ERROR:
            code = reader.fields("L").number(0)
            self.pending_of(tag).failed(code)
        else:
            server_events.event(self, number, reader)


Handler = Callable[[PulseFilter, int, Fields], None]

_HANDLERS: dict[Command, Handler] = {
    **playback_commands.HANDLERS,
    **introspection.HANDLERS,
    **recording.HANDLERS,
}
assert set(_HANDLERS) == {c for c, r in REQUESTS.items() if r.way is Way.LOCAL}
