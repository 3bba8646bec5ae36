"""Recordings: silence at the right pace, or the real source, under one number.

Every recording is ours: the client gets a channel, an index and a source that
we have made up.  While it may not hear, its samples are made here by a clock
and no source is open.  While it may, a stream of the server's is open behind
it and its samples come under the same channel, so that allowing and revoking
change nothing that the client can see but the sound.

Before a real source is opened, the server is asked which one is the default
and whether that is a monitor: with no microphone plugged in, sound servers
offer what others play instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.limits import sound as limits
from broker.core.streams.sound_rules import Microphone, SoundRules
from broker.jail.sound import frames, introspection, virtual_devices
from broker.jail.sound.commands import (
    INVALID,
    REQUESTS,
    ChangeKind,
    Command,
    Error,
    Facility,
    SoundRefusedError,
)
from broker.jail.sound.events import MicrophoneMissing, StreamBegun, StreamEnded
from broker.jail.sound.latency import least_fragment
from broker.jail.sound.properties import pcm_formats
from broker.jail.sound.samples import (
    are_places,
    fill_byte,
    format_of,
    frame_bytes,
    is_valid,
    places_of,
    settled,
)
from broker.jail.sound.tagstruct import (
    Fields,
    Format,
    Properties,
    Reader,
    Spec,
    Value,
    encode,
)

if TYPE_CHECKING:
    from broker.jail.sound.filter import Handler, PulseFilter

_C = Command
_FIRST_CHANNEL = 0x1000
"""Far from the server's channels, which count from 0."""

# Places in CREATE_RECORD_STREAM (commands.REQUESTS).
(
    _SPEC, _MAP, _SOURCE, _SOURCE_NAME, _MAXLENGTH, _CORKED, _FRAGSIZE, _NO_REMAP, _NO_REMIX,
    _FIX_FORMAT, _FIX_RATE, _FIX_CHANNELS, _NO_MOVE, _VARIABLE, _PEAK, _ADJUST, _PROPERTIES,
    _DIRECT, _EARLY, _NO_INHIBIT, _FAIL_SUSPENDED, _FORMATS, _VOLUME, _MUTED, _VOLUME_SET,
    _MUTED_SET, _RELATIVE, _PASSTHROUGH,
) = range(28)  # fmt: skip


class Recording:
    """One recording of a client."""

    def __init__(
        self,
        owner: PulseFilter,
        channel: int,
        *,
        spec: Spec,
        positions: tuple[int, ...],
        fragment: int,
        properties: Properties,
        corked: bool,
    ) -> None:
        self.owner = owner
        self.channel = channel
        self.index = owner.sandbox.new_index()
        self.spec = spec
        self.positions = positions
        self.properties = properties
        self.fragment = fragment
        self.corked = corked
        self.written = 0
        """Bytes that the client was sent."""
        self._due: float | None = None
        self._real: int | None = None
        self._opening: object | None = None
        """A token while the server is asked to open; another one, another try."""
        self._open = False
        self._carry = b""

    @property
    def wanted(self) -> bool:
        """Return whether the client records now."""
        return not self.corked

    @property
    def due(self) -> float | None:
        """When the next silence must be sent."""
        return self._due

    # -- life ----------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Register the recording with its sandbox; start to send silence or sound."""
        sandbox = self.owner.sandbox
        self.owner.recordings.by_channel[self.channel] = self
        sandbox.recordings[self.index] = self
        sandbox.announce(Facility.SOURCE_OUTPUT, ChangeKind.NEW, self.index)
        sandbox.tell(StreamBegun(self.index, self.owner.application, recording=True))
        if not self.corked:
            self._start(now)

    def end(self) -> None:
        """Remove the recording from the sandbox's state, once.

        Close its real source.
        """
        sandbox = self.owner.sandbox
        if sandbox.recordings.pop(self.index, None) is None:
            return
        self.owner.recordings.by_channel.pop(self.channel, None)
        self._close_real()
        self._due = None
        sandbox.announce(Facility.SOURCE_OUTPUT, ChangeKind.REMOVE, self.index)
        sandbox.tell(StreamEnded(self.index, recording=True))
        sandbox.look_if_wanted()

    # Streams beyond a new limit are ended. A record's `[audio]` applies to running
    # streams as soon as the file has changed. The other reading, that a running stream
    # keeps its permission, would leave a bound without effect for as long as a sandbox
    # likes. So a stream that could not begin under the new record is ended at the
    # server and its client is notified, the newest first where there are too many;
    # `volume` and the microphone act without an end. A microphone that a record opens
    # again is there for the next recording: a recording silenced by a no stays silent,
    # because it was not requested again.
    def fits(self, rules: SoundRules) -> bool:
        """Return whether the recording could begin under these rules."""
        return self.spec.rate <= rules.rate and self.spec.channels <= rules.channels

    def kill(self) -> None:
        """End the recording and notify the client."""
        self.end()
        self.owner.event(_C.RECORD_STREAM_KILLED, encode("L", [self.channel]))

    def cork(self, now: float, *, corked: bool) -> None:
        """Pause or resume the recording; no source is open while it pauses."""
        if corked == self.corked:
            return
        self.corked = corked
        if corked:
            self._close_real()
            self._due = None
            self.owner.sandbox.look_if_wanted()
        else:
            self._start(now)

    def _start(self, now: float) -> None:
        self._due = now + self._fragment_seconds()
        self.owner.sandbox.microphone_wanted(self.owner.application)
        self.listen(now)

    # -- silence -------------------------------------------------------------

    def _fragment_seconds(self) -> float:
        return self.fragment / (frame_bytes(self.spec) * self.spec.rate)

    def set_fragment(self, asked: int) -> None:
        """Set the size of its pieces, as near to the requested one as possible."""
        self.fragment = fragment_size(self.spec, asked)

    def tick(self, now: float) -> None:
        """Send the client the silent samples that are due."""
        if self._due is None or now < self._due:
            return
        if now - self._due > limits.PULSE_LAG_SECONDS:
            self._due = now
        silence = bytes([fill_byte(self.spec)]) * self.fragment
        while self._due <= now:
            self._due += self._fragment_seconds()
            # guard: unread recordings
            if len(self.owner.down.data) <= limits.PULSE_QUEUE_BYTES:
                self.owner.down.add(frames.samples(self.channel, silence))
                self.written += self.fragment

    # -- the real source -----------------------------------------------------

    def listen(self, _now: float) -> None:
        """Open the real source if the microphone is allowed and the recording runs."""
        # guard: not before it is allowed
        if not self.owner.sandbox.allowed or self.corked or self._opening is not None:
            return
        token = self._opening = object()
        f = self.owner
        f.slow_down(f.sandbox.births.take(f.now))

        def failed(code: int) -> None:
            if self._opening is token:
                self._give_up(f"the sound server reported error {code}")

        def server(reader: Reader) -> None:
            name = reader.fields("ssssass").text(6)
            if self._opening is token:
                if name is None:
                    self._give_up("the sound server has no source")
                else:
                    self._look_at(name, token)

        if f.sandbox.rules.source is not None:
            self._look_at(f.sandbox.rules.source, token)
        else:
            f.ask(_C.GET_SERVER_INFO, b"", server, failed)

    def _look_at(self, name: str, token: object) -> None:
        """Look the session's source up, and refuse a monitor."""

        def answered(reader: Reader) -> None:
            fields = reader.fields("LssamLvbL")
            if self._opening is not token:
                return
            # guard: no monitor
            if fields.number(8) != INVALID:
                self._give_up("the default source is a monitor, not a microphone")
            else:
                self._open_real(name, token)

        def failed(code: int) -> None:
            if self._opening is token:
                self._give_up(f"the sound server reported error {code} for its source")

        values: list[Value] = [INVALID, name]
        self.owner.ask(_C.GET_SOURCE_INFO, encode("Ls", values), answered, failed)

    def _open_real(self, name: str, token: object) -> None:
        """Open the recording at the server, which the user has permitted."""
        f = self.owner

        def answered(reader: Reader) -> None:
            fields = reader.fields("LLLLamLs")
            real = fields.number(0)
            # guard: a revoke on its way
            if self._opening is not token:
                f.ask(_C.DELETE_RECORD_STREAM, encode("L", [real]))
            # guard: the source asked for
            elif fields.text(7) != name or fields.spec(4) != self.spec:
                f.ask(_C.DELETE_RECORD_STREAM, encode("L", [real]))
                self._give_up("the sound server opened another source or sample format")
            else:
                self._real = real
                f.recordings.by_real[real] = self

        def failed(code: int) -> None:
            if self._opening is token:
                self._give_up(f"the sound server reported error {code}")

        self._open = True
        f.sandbox.source_opened(name)
        f.ask(_C.CREATE_RECORD_STREAM, self._request(name), answered, failed)

    def _request(self, name: str) -> bytes:
        """Return the request that opens the recording."""
        spec = self.spec
        values: list[Value] = [
            spec,
            self.positions,
            INVALID,
            name,
            INVALID,
            False,
            self.fragment,
            *(False,) * 5,
            True,  # no_move: to a monitor, for one
            *(False,) * 2,
            True,  # adjust_latency: the fragment is what the client wants to wait
            self.properties,
            INVALID,
            *(False,) * 3,
            [format_of(spec)],
            (limits.PULSE_VOLUME,) * spec.channels,
            *(False,) * 5,
        ]
        signature = REQUESTS[_C.CREATE_RECORD_STREAM].signature(self.owner.version)
        return encode(signature, values[: len(signature)])

    def _give_up(self, reason: str) -> None:
        """Keep the source silent, and report the reason to the user."""
        self._close_real()
        self._opening = self
        self.owner.sandbox.tell(MicrophoneMissing(reason))

    def _close_real(self) -> None:
        """Close the real source, here and at the server.

        Pass on no more of its samples.
        """
        self._opening = None
        self._carry = b""
        if self._real is not None:
            self.owner.recordings.by_real.pop(self._real, None)
            self.owner.ask(_C.DELETE_RECORD_STREAM, encode("L", [self._real]))
            self._real = None
        if self._open:
            self._open = False
            self.owner.sandbox.source_closed()

    def deafen(self, now: float) -> None:
        """Revoked: continue with silence."""
        self._close_real()
        if self._due is None and not self.corked:
            self._due = now + self._fragment_seconds()

    def source_ended(self, now: float) -> None:
        """Continue with silence, as the sound server ended the real stream.

        Tell the user.
        """
        if self._real is not None:
            self.owner.recordings.by_real.pop(self._real, None)
            self._real = None
        self.deafen(now)
        self._give_up("the sound server ended the recording")

    def heard(self, data: bytes) -> None:
        """Send the client the samples of the real source."""
        self._due = None
        data = self._carry + data
        whole = len(data) - len(data) % frame_bytes(self.spec)
        self._carry = data[whole:]
        if whole and len(self.owner.down.data) <= limits.PULSE_QUEUE_BYTES:
            head = frames.HEADER.pack(whole, self.channel, 0, 0, 0)
            self.owner.down.add_heard(head, data[:whole], fill_byte(self.spec))
            self.written += whole


def fragment_size(spec: Spec, asked: int) -> int:
    """Return the fragment size in bytes: the requested one, or 200 ms.

    At most 64 KiB.
    """
    one = frame_bytes(spec)
    if asked in {INVALID, 0}:
        asked = int(spec.rate * limits.PULSE_FRAGMENT_SECONDS) * one
    most = min(asked, limits.PULSE_FRAGMENT_BYTES) // one * one
    # guard: the least fragment
    return max(least_fragment(spec), most)


class Recordings:
    """All recordings of one connection."""

    def __init__(self, owner: PulseFilter) -> None:
        self._owner = owner
        self.by_channel: dict[int, Recording] = {}
        self.by_real: dict[int, Recording] = {}
        self._next = _FIRST_CHANNEL

    def new_channel(self) -> int:
        """A channel that this connection has not used."""
        self._next += 1
        return self._next - 1

    @property
    def deadline(self) -> float | None:
        """When the next silence is due."""
        if not self.by_channel:
            return None
        dues = (r.due for r in self.by_channel.values())
        return min((due for due in dues if due is not None), default=None)

    def tick(self, now: float) -> None:
        """Send the pieces that are due."""
        for recording in self.by_channel.values():
            recording.tick(now)

    def heard(self, part: frames.Samples, _now: float) -> None:
        """Samples of the server; of a stream that was closed, nothing."""
        recording = self.by_real.get(part.channel)
        if recording is not None and self._owner.sandbox.allowed:
            recording.heard(part.data)

    def event(self, number: Command, reader: Reader) -> None:
        """Handle a server event: a recording was killed, or moved to another source."""
        recording = self.by_real.get(reader.fields("L").number(0))
        if recording is None:
            return
        if number is _C.RECORD_STREAM_MOVED:
            name = reader.fields("Ls").text(1)
            # guard: moved to a monitor
            if name is not None and not name.endswith(".monitor"):
                return
            recording.deafen(self._owner.now)
        recording.source_ended(self._owner.now)

    def close(self) -> None:
        """The connection is over."""
        for recording in list(self.by_channel.values()):
            recording.end()


# -- commands ------------------------------------------------------------------------


def create(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Answer CREATE_RECORD_STREAM with a silent stream; do not ask the server."""
    rules = f.sandbox.rules
    # guard: denied microphone
    if rules.microphone is Microphone.DENY or f.sandbox.hidden:
        raise SoundRefusedError(Error.ACCESS, "the microphone is denied")
    f.check_room()
    if fields.number(_DIRECT) != INVALID:
        raise SoundRefusedError(Error.ACCESS, "recording another stream is denied")
    introspection.check_source(f, fields.number(_SOURCE), fields.text(_SOURCE_NAME))
    spec, positions = _samples(f, fields)
    recording = Recording(
        f,
        f.recordings.new_channel(),
        spec=spec,
        positions=positions,
        fragment=fragment_size(spec, fields.number(_FRAGSIZE)),
        properties=f.sandbox.labels.stream(fields.properties(_PROPERTIES)),
        corked=fields.truth(_CORKED),
    )
    values: list[Value] = [
        recording.channel,
        recording.index,
        limits.PULSE_BUFFER_BYTES,
        recording.fragment,
        spec,
        positions,
        virtual_devices.DEVICE,
        virtual_devices.SOURCE_NAME,
        False,
        0,
    ]
    answer = encode("LLLLamLtbU", values)
    if f.version >= 22:
        answer += encode("f", [format_of(spec)])
    f.reply(tag, answer)
    recording.begin(f.now)


def _samples(f: PulseFilter, fields: Fields) -> tuple[Spec, tuple[int, ...]]:
    """Return the sample form of a request.  Raises SoundRefusedError."""
    if len(fields) > _PASSTHROUGH and fields.truth(_PASSTHROUGH):
        raise SoundRefusedError(Error.ACCESS, "coded sound")
    spec, positions = fields.spec(_SPEC), fields.numbers(_MAP)
    forms: list[Format] = fields.formats(_FORMATS) if len(fields) > _FORMATS else []
    if forms:
        plain = pcm_formats(forms)
        if not plain:
            raise SoundRefusedError(Error.ACCESS, "coded sound")
        spec = settled(plain, spec)
        if len(positions) != spec.channels and is_valid(spec):
            positions = places_of(plain, spec.channels)
    if not is_valid(spec) or not are_places(positions, spec):
        raise SoundRefusedError(Error.INVALID, "invalid sample specification")
    rules, least = f.sandbox.rules, limits.PULSE_RATE_LEAST
    if not least <= spec.rate <= rules.rate or spec.channels > rules.channels:
        raise SoundRefusedError(
            Error.NOTSUPPORTED, "the record denies this rate or number of channels"
        )
    return spec, positions


def _own(f: PulseFilter, channel: int) -> Recording:
    recording = f.recordings.by_channel.get(channel)
    if recording is None:
        raise SoundRefusedError(Error.NOENTITY, "no such stream")
    return recording


def delete(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Handle DELETE_RECORD_STREAM: end the recording."""
    _own(f, fields.number(0)).end()
    f.reply(tag)


def cork(f: PulseFilter, tag: int, fields: Fields) -> None:
    """CORK_RECORD_STREAM."""
    _own(f, fields.number(0)).cork(f.now, corked=fields.truth(1))
    f.reply(tag)


def acknowledge(f: PulseFilter, tag: int, fields: Fields) -> None:
    """FLUSH, names and properties: nothing of it leaves us."""
    _own(f, fields.number(0))
    f.reply(tag)


def latency(f: PulseFilter, tag: int, fields: Fields) -> None:
    """GET_RECORD_LATENCY: all written samples are read, as far as we know."""
    recording = _own(f, fields.number(0))
    then = fields.numbers(1)
    values: list[Value] = [0, 0, not recording.corked, then, then]
    f.reply(tag, encode("UUbTTrr", [*values, recording.written, recording.written]))


def set_buffer(f: PulseFilter, tag: int, fields: Fields) -> None:
    """SET_RECORD_STREAM_BUFFER_ATTR."""
    recording = _own(f, fields.number(0))
    recording.set_fragment(fields.number(2))
    values: list[Value] = [limits.PULSE_BUFFER_BYTES, recording.fragment, 0]
    f.reply(tag, encode("LLU", values))


def refuse_rate(_f: PulseFilter, _tag: int, _fields: Fields) -> None:
    """UPDATE_RECORD_STREAM_SAMPLE_RATE: only for streams of variable rate."""
    raise SoundRefusedError(Error.NOTSUPPORTED, "a recording has a fixed rate")


def output_info(f: PulseFilter, tag: int, fields: Fields) -> None:
    """GET_SOURCE_OUTPUT_INFO of an own recording."""
    f.reply(tag, _shown(f, _own_output(f, fields.number(0))))


def output_list(f: PulseFilter, tag: int, _fields: Fields) -> None:
    """GET_SOURCE_OUTPUT_INFO_LIST of the own recordings."""
    f.reply(tag, b"".join(_shown(f, r) for r in f.sandbox.recordings.values()))


def own_loudness(f: PulseFilter, tag: int, fields: Fields) -> None:
    """SET_SOURCE_OUTPUT_VOLUME, _MUTE of an own recording: nothing to do."""
    _own_output(f, fields.number(0))
    f.reply(tag)


def _own_output(f: PulseFilter, index: int) -> Recording:
    """Return a recording of the sandbox by its index.  Raises SoundRefusedError."""
    recording = f.sandbox.recordings.get(index)
    if recording is None:
        raise SoundRefusedError(
            Error.ACCESS, f"source output {index} does not belong to the sandbox"
        )
    return recording


def _shown(f: PulseFilter, recording: Recording) -> bytes:
    """Encode a recording as the source output that the client sees."""
    return virtual_devices.source_output(
        f.version,
        index=recording.index,
        client_index=recording.owner.index,
        spec=recording.spec,
        channel_map=recording.positions,
        corked=recording.corked,
        properties=f.sandbox.labels.for_guest(recording.properties),
    )


HANDLERS: dict[Command, Handler] = {
    _C.CREATE_RECORD_STREAM: create,
    _C.DELETE_RECORD_STREAM: delete,
    _C.CORK_RECORD_STREAM: cork,
    _C.FLUSH_RECORD_STREAM: acknowledge,
    _C.GET_RECORD_LATENCY: latency,
    _C.SET_RECORD_STREAM_BUFFER_ATTR: set_buffer,
    _C.UPDATE_RECORD_STREAM_SAMPLE_RATE: refuse_rate,
    _C.UPDATE_RECORD_STREAM_PROPLIST: acknowledge,
    _C.REMOVE_RECORD_STREAM_PROPLIST: acknowledge,
    _C.SET_RECORD_STREAM_NAME: acknowledge,
    _C.GET_SOURCE_OUTPUT_INFO: output_info,
    _C.GET_SOURCE_OUTPUT_INFO_LIST: output_list,
    _C.SET_SOURCE_OUTPUT_VOLUME: own_loudness,
    _C.SET_SOURCE_OUTPUT_MUTE: own_loudness,
}
