"""Commands about playback: a client's allowed requests, and their replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.core.errors import UpstreamError
from broker.core.limits import sound as limits
from broker.jail.sound import virtual_devices
from broker.jail.sound.commands import (
    INVALID,
    REQUESTS,
    Command,
    Error,
    SoundRefusedError,
)
from broker.jail.sound.latency import Sizes, bounded_sizes
from broker.jail.sound.playback_stream import Playback
from broker.jail.sound.properties import pcm_formats
from broker.jail.sound.samples import are_places, is_valid, places_of, settled
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

# Places in CREATE_PLAYBACK_STREAM (commands.REQUESTS), by the version that
# added them.
(
    _SPEC, _MAP, _SINK, _SINK_NAME, _MAXLENGTH, _CORKED, _TLENGTH, _PREBUF, _MINREQ, _SYNC,
    _VOLUME, _NO_REMAP, _NO_REMIX, _FIX_FORMAT, _FIX_RATE, _FIX_CHANNELS, _NO_MOVE, _VARIABLE,
    _MUTED, _ADJUST, _PROPERTIES, _VOLUME_SET, _EARLY, _MUTED_SET, _NO_INHIBIT, _FAIL_SUSPENDED,
    _RELATIVE, _PASSTHROUGH, _FORMATS,
) = range(29)  # fmt: skip

# PA_UPDATE_SET, _MERGE, _REPLACE.  Replacing the whole list would take the
# label away, so it becomes the replacing of the named ones.
_UPDATES = {0: 2, 1: 1, 2: 2}


def create(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Forward CREATE_PLAYBACK_STREAM with our device and names, and bounded values."""
    rules = f.sandbox.rules
    f.check_room()
    _check_device(fields)
    _check_samples(f, fields)
    volume: tuple[int, ...] | None = fields.numbers(_VOLUME)
    if len(fields) > _VOLUME_SET and not fields.truth(_VOLUME_SET):
        volume = None
    muted = fields.truth(_MUTED) and (
        len(fields) <= _MUTED_SET or fields.truth(_MUTED_SET)
    )
    properties = f.sandbox.labels.stream(fields.properties(_PROPERTIES))
    # guard: our device
    fields[_SINK], fields[_SINK_NAME] = INVALID, rules.sink
    # guard: sizes of a new stream
    _set_sizes(f, fields)
    # Alone: streams that start and stop as one made PulseAudio fail an assertion.
    # guard: streams that belong together
    fields[_SYNC] = f.new_sync()
    # Fixed values would be the hardware's, and reveal it.
    for place in (_FIX_FORMAT, _FIX_RATE, _FIX_CHANNELS, _NO_MOVE):
        fields[place] = False
    fields[_PROPERTIES] = properties
    _set_loudness(f, fields, volume, muted=muted)
    if len(fields) > _FAIL_SUSPENDED:
        fields[_FAIL_SUSPENDED] = False
    signature = REQUESTS[_C.CREATE_PLAYBACK_STREAM].signature(f.version)
    most, level = rules.volume, f.sandbox.level

    def answered(reader: Reader) -> bytes:
        variable = fields.truth(_VARIABLE)
        stream, answer = _created(
            f, reader, volume, properties, muted=muted, variable=variable
        )
        # guard: a volume that the user sets meanwhile is applied
        if (f.sandbox.rules.volume, f.sandbox.level) != (most, level):
            stream.apply_level()  # the user was faster than the server
        return answer

    def settled() -> None:
        f.creating -= 1

    f.creating += 1
    # guard: pace of streams
    f.slow_down(f.sandbox.births.take(f.now))
    f.relay(
        tag, _C.CREATE_PLAYBACK_STREAM, encode(signature, fields), answered, settled
    )


def _check_device(fields: Fields) -> None:
    """Raise SoundRefusedError for a device that is not the sandbox's sink."""
    if fields.number(_SINK) not in {INVALID, virtual_devices.DEVICE}:
        raise SoundRefusedError(
            Error.ACCESS, f"sink {fields.number(_SINK)} does not belong to the sandbox"
        )
    if fields.text(_SINK_NAME) not in virtual_devices.SINK_NAMES:
        raise SoundRefusedError(Error.NOENTITY, "no such sink")


# The filter decides values that a sound client leaves open. A client may name formats
# with holes ("any rate"), and the sound server fills them with its hardware's values
# and reports them in the answer: a sandbox learned format, rate, channels and places of
# your loudspeakers. So the filter makes one plain kind of samples out of every request
# before it passes it on, and the server never sees formats at all.
#
# The same code rejects requests that crash a sound server. Random requests through the
# filter, which were all valid, crashed PulseAudio 16.1 with failed assertions: a seek
# to half a sample, a rate changed from 192,000 to a few, a changed rate of a stream
# that was made with a fixed one, streams with one number of synchronisation. libpulse
# lets no program ask for the first and the third, and nothing that we know of needs the
# others. All programs share the sound server, so requests that crash it are refused
# here, even where the protocol allows it.
#
# The list of all streams is not asked of the server either, although the answer was
# filtered: its duration reveals how many others play, and a few bytes make the server
# list all of them.
def _check_samples(f: PulseFilter, fields: Fields) -> None:
    """Refuse coded sound, and sample formats beyond the protocol or the rules."""
    if len(fields) > _PASSTHROUGH and fields.truth(_PASSTHROUGH):
        raise SoundRefusedError(Error.ACCESS, "compressed audio is denied")
    if len(fields) > _FORMATS and fields.formats(_FORMATS):
        kept = pcm_formats(fields.formats(_FORMATS))
        if not kept:
            raise SoundRefusedError(Error.ACCESS, "compressed audio is denied")
        _settle(fields, kept)
    spec = fields.spec(_SPEC)
    if (
        not is_valid(spec)
        or not are_places(fields.numbers(_MAP), spec)
        or len(fields.numbers(_VOLUME)) != spec.channels
    ):
        raise SoundRefusedError(Error.INVALID, "invalid sample specification")
    if not _within(f, spec):
        raise SoundRefusedError(
            Error.NOTSUPPORTED, "the record denies this rate or number of channels"
        )


def _settle(fields: Fields, forms: list[Format]) -> None:
    """Set one sample format, with channel map and volumes; changes ``fields``.

    Open values would become the hardware's, and the reply would reveal them.
    """
    spec = settled(forms, fields.spec(_SPEC))
    # guard: open fields of formats
    fields[_SPEC], fields[_FORMATS] = spec, []
    if not is_valid(spec):
        return  # and refused
    if len(fields.numbers(_MAP)) != spec.channels:
        fields[_MAP] = places_of(forms, spec.channels)
    volumes = fields.numbers(_VOLUME)
    if len(volumes) != spec.channels:
        fields[_VOLUME] = (volumes[:1] or (limits.PULSE_VOLUME,)) * spec.channels


def _within(f: PulseFilter, spec: Spec) -> bool:
    rules = f.sandbox.rules
    least = limits.PULSE_RATE_LEAST
    # guard: the least rate
    return least <= spec.rate <= rules.rate and spec.channels <= rules.channels


def _set_sizes(f: PulseFilter, fields: Fields) -> None:
    """Bound the asked buffer sizes; return those held here."""
    asked = Sizes(*(fields.number(at) for at in (_MAXLENGTH, _TLENGTH, _MINREQ)))
    early = len(fields) > _EARLY and fields.truth(_EARLY)
    most = f.sandbox.rules.buffer_bytes
    held = bounded_sizes(fields.spec(_SPEC), asked, most, early=early)
    fields[_MAXLENGTH], fields[_TLENGTH] = held.buffer, held.target
    fields[_MINREQ] = held.request


def _set_loudness(
    f: PulseFilter, fields: Fields, volume: tuple[int, ...] | None, *, muted: bool
) -> None:
    """Set the stream's volume by the sandbox's level."""
    level = f.sandbox.level
    channels = len(fields.numbers(_VOLUME))
    asked = volume or (limits.PULSE_VOLUME,) * channels
    fields[_VOLUME] = f.sandbox.loudness(asked)
    fields[_MUTED] = muted or level.muted
    if len(fields) > _VOLUME_SET:
        # A volume that the server remembers for it must not undo the user's choice.
        fields[_VOLUME_SET] = volume is not None or f.sandbox.is_turned_down
    if len(fields) > _MUTED_SET and level.muted:
        fields[_MUTED_SET] = True
    if len(fields) > _RELATIVE:
        fields[_RELATIVE] = False


def _created(
    f: PulseFilter,
    reader: Reader,
    volume: tuple[int, ...] | None,
    properties: Properties,
    *,
    muted: bool,
    variable: bool,
) -> tuple[Playback, bytes]:
    """Register the stream that the server made; return it and the client's reply."""
    head = reader.fields("LLLLLLL" + "amLsbU")
    formats = reader.fields("f") if f.version >= 21 else Fields()
    reader.end()
    spec = head.spec(7)
    if not is_valid(spec) or head.number(0) in f.playbacks:
        raise UpstreamError("the sound server created an invalid stream")
    # guard: a stream of the server is within the record
    if not _within(f, spec):
        f.ask(_C.DELETE_PLAYBACK_STREAM, encode("L", [head.number(0)]))
        raise SoundRefusedError(
            Error.NOTSUPPORTED, "the record denies this rate or number of channels"
        )
    stream = Playback(
        f,
        channel=head.number(0),
        real_index=head.number(1),
        spec=spec,
        credit=head.number(2),
        maxlength=min(head.number(3), f.sandbox.rules.buffer_bytes),
        volume=volume,
        muted=muted,
        variable=variable,
        properties=properties,
        now=f.now,
    )
    stream.begin()
    head[1], head[9], head[10] = (
        stream.index,
        virtual_devices.DEVICE,
        virtual_devices.SINK_NAME,
    )
    answer = encode("LLLLLLLamLtbU", head) + encode("f" * len(formats), formats)
    return stream, answer


def delete(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Forward DELETE_PLAYBACK_STREAM; free the stream's numbers on the reply."""
    stream = f.playback(fields)

    def answered(reader: Reader) -> bytes:
        # guard: the end of a stream releases the commands after it
        stream.flush()  # commands after it are answered, too
        stream.end()
        return reader.rest()

    stream.flush()
    f.relay(tag, _C.DELETE_PLAYBACK_STREAM, encode("L", [stream.channel]), answered)


def drain(f: PulseFilter, tag: int, fields: Fields) -> None:
    """DRAIN_PLAYBACK_STREAM, after what still waits here."""
    stream = f.playback(fields)
    stream.after_samples(
        f.prepare_relay(tag, _C.DRAIN_PLAYBACK_STREAM, encode("L", [stream.channel]))
    )


def flush(f: PulseFilter, tag: int, fields: Fields) -> None:
    """FLUSH_PLAYBACK_STREAM; samples that wait here are discarded as well."""
    stream = f.playback(fields)
    stream.flush()
    f.relay(tag, _C.FLUSH_PLAYBACK_STREAM, encode("L", [stream.channel]))


def set_buffer(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Forward SET_PLAYBACK_STREAM_BUFFER_ATTR within the bounds of a new stream."""
    stream = f.playback(fields)
    most = f.sandbox.rules.buffer_bytes
    asked = Sizes(fields.number(1), fields.number(2), fields.number(4))
    early = len(fields) > 6 and fields.truth(6)
    held = bounded_sizes(stream.spec, asked, most, early=early)
    # guard: sizes of a stream that runs
    fields[1], fields[2], fields[4] = held.buffer, held.target, held.request
    letters = "LLLLLb" + "b" * (len(fields) - 6)
    # Another latency makes PipeWire settle its whole graph again, as a new stream does.
    # guard: pace of sizes
    f.slow_down(f.sandbox.births.take(f.now))

    def answered(reader: Reader) -> bytes:
        said = reader.fields("L")
        stream.maxlength = min(said.number(0), held.buffer, most)
        return encode("L", said) + reader.rest()

    f.relay(tag, _C.SET_PLAYBACK_STREAM_BUFFER_ATTR, encode(letters, fields), answered)


def set_rate(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Forward UPDATE_PLAYBACK_STREAM_SAMPLE_RATE if the rate changes only a little."""
    stream = f.playback(fields)
    # guard: rates that change
    if not stream.variable:  # PulseAudio would fail an assertion over it
        raise SoundRefusedError(Error.NOTSUPPORTED, "the stream has a fixed rate")
    made = stream.spec.rate
    # guard: how far rates change
    drift = made * limits.PULSE_RATE_DRIFT_PERCENT // 100
    most = min(made + drift, f.sandbox.rules.rate)
    if not made - drift <= fields.number(1) <= most:
        raise SoundRefusedError(Error.NOTSUPPORTED, "this rate is not allowed")
    f.relay(tag, _C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE, encode("LL", fields))


# -- names and properties -------------------------------------------------------


def update_stream(f: PulseFilter, tag: int, fields: Fields) -> None:
    """UPDATE_PLAYBACK_STREAM_PROPLIST, of allowed properties."""
    stream = f.playback(fields)
    _update_properties(f, tag, stream, fields.number(1), fields.properties(2))


def name_stream(f: PulseFilter, tag: int, fields: Fields) -> None:
    """SET_PLAYBACK_STREAM_NAME, as the property that it became."""
    name = (fields.text(1) or "").encode()
    _update_properties(f, tag, f.playback(fields), 2, {"media.name": name})


def _update_properties(
    f: PulseFilter, tag: int, stream: Playback, mode: int, untrusted: Properties
) -> None:
    """Send the allowed properties of a playback stream to the server."""
    f.may_retitle()
    changed = f.sandbox.labels.update(untrusted)
    stream.properties = stream.properties | changed
    values: list[Value] = [stream.channel, _mode(mode), changed]
    f.relay(tag, _C.UPDATE_PLAYBACK_STREAM_PROPLIST, encode("LLP", values))


def update_client(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Forward UPDATE_CLIENT_PROPLIST, with the allowed properties only."""
    f.may_retitle()
    changed = f.sandbox.labels.update(fields.properties(1))
    f.properties = f.properties | changed
    f.relay(
        tag,
        _C.UPDATE_CLIENT_PROPLIST,
        encode("LP", [_mode(fields.number(0)), changed]),
    )


def _mode(mode: int) -> int:
    if mode not in _UPDATES:
        raise SoundRefusedError(Error.INVALID, "unknown update mode")
    return _UPDATES[mode]


def keep_properties(f: PulseFilter, tag: int, _fields: Fields) -> None:
    """REMOVE_..._PROPLIST: the label stays, the rest does no harm."""
    f.reply(tag)


# -- loudness --------------------------------------------------------------------


def set_volume(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Handle SET_SINK_INPUT_VOLUME: at most 100 %, below the user's volume."""
    stream = _to_order(f, fields.number(0))
    if len(fields.numbers(1)) not in {1, stream.spec.channels}:
        raise SoundRefusedError(Error.INVALID, "wrong number of channels")
    stream.volume = fields.numbers(1)
    values: list[Value] = [stream.real_index, stream.real_volume()]
    _order(f, tag, stream, _C.SET_SINK_INPUT_VOLUME, encode("Lv", values))


def set_mute(f: PulseFilter, tag: int, fields: Fields) -> None:
    """SET_SINK_INPUT_MUTE of an own stream; the user's mute stays."""
    stream = _to_order(f, fields.number(0))
    stream.muted = fields.truth(1)
    values: list[Value] = [stream.real_index, stream.real_mute()]
    _order(f, tag, stream, _C.SET_SINK_INPUT_MUTE, encode("Lb", values))


def _to_order(f: PulseFilter, index: int) -> Playback:
    """Return a stream of the sandbox whose connection can take a command."""
    stream = f.own_playback(index)
    # guard: orders on another's connection
    if stream.owner is not f and stream.owner.is_crowded:
        raise SoundRefusedError(Error.TOOLARGE, "too many pending requests")
    return stream


def _order(
    f: PulseFilter, tag: int, stream: Playback, command: Command, fields: bytes
) -> None:
    """Send a command about a stream on the connection that the stream belongs to.

    The server reads connections in no order: on another one, a command sent before
    the user's mute could take effect after it.
    """
    # guard: orders to a stream take its owner's path
    if stream.owner is f:
        f.relay(tag, command, fields)
    else:
        stream.owner.ask(command, fields)
        f.reply(tag)


HANDLERS: dict[Command, Handler] = {
    _C.CREATE_PLAYBACK_STREAM: create,
    _C.DELETE_PLAYBACK_STREAM: delete,
    _C.DRAIN_PLAYBACK_STREAM: drain,
    _C.FLUSH_PLAYBACK_STREAM: flush,
    _C.SET_PLAYBACK_STREAM_BUFFER_ATTR: set_buffer,
    _C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE: set_rate,
    _C.UPDATE_PLAYBACK_STREAM_PROPLIST: update_stream,
    _C.REMOVE_PLAYBACK_STREAM_PROPLIST: keep_properties,
    _C.SET_PLAYBACK_STREAM_NAME: name_stream,
    _C.UPDATE_CLIENT_PROPLIST: update_client,
    _C.REMOVE_CLIENT_PROPLIST: keep_properties,
    _C.SET_SINK_INPUT_VOLUME: set_volume,
    _C.SET_SINK_INPUT_MUTE: set_mute,
}
