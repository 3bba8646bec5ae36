"""Introspection commands: answered here, from data that the sandbox may know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.jail.sound import virtual_devices
from broker.jail.sound.commands import INVALID, Command, Error, SoundRefusedError
from broker.jail.sound.playback_stream import Playback
from broker.jail.sound.tagstruct import Fields, Reader, encode

if TYPE_CHECKING:
    from broker.jail.sound.filter import Handler, PulseFilter

_C = Command
_SINK_INPUT_FACILITY = 0x0004


def server_info(f: PulseFilter, tag: int, _fields: Fields) -> None:
    """GET_SERVER_INFO."""
    f.reply(tag, virtual_devices.server_info(f.version, source=not f.sandbox.hidden))


def stat(f: PulseFilter, tag: int, _fields: Fields) -> None:
    """Answer STAT with zeros: it would describe the server's memory."""
    f.reply(tag, encode("LLLLL", [0] * 5))


def subscribe(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Handle SUBSCRIBE; ask the server only for events about playback streams.

    We report new and removed streams: only we know their owners.
    """
    f.subscribe(fields.number(0))
    mask = fields.number(0) & _SINK_INPUT_FACILITY
    f.relay(tag, _C.SUBSCRIBE, encode("L", [mask]))


# -- devices -----------------------------------------------------------------------


def sink_info(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Answer GET_SINK_INFO, by index or name, with the virtual sink."""
    if fields.number(0) not in {INVALID, virtual_devices.DEVICE}:
        raise SoundRefusedError(
            Error.ACCESS, f"sink {fields.number(0)} does not belong to the sandbox"
        )
    if fields.number(0) == INVALID and fields.text(1) not in virtual_devices.SINK_NAMES:
        raise SoundRefusedError(Error.NOENTITY, "no such sink")
    f.reply(tag, virtual_devices.sink(f.version))


def sink_list(f: PulseFilter, tag: int, _fields: Fields) -> None:
    """GET_SINK_INFO_LIST."""
    f.reply(tag, virtual_devices.sink(f.version))


def lookup_sink(f: PulseFilter, tag: int, fields: Fields) -> None:
    """LOOKUP_SINK."""
    if fields.text(0) not in virtual_devices.SINK_NAMES:
        raise SoundRefusedError(Error.NOENTITY, "no such sink")
    f.reply(tag, encode("L", [virtual_devices.DEVICE]))


def check_source(f: PulseFilter, index: int, name: str | None) -> None:
    """Refuse all sources but the sandbox's own: monitors carry the sound of others."""
    if name is not None and (name.endswith(".monitor") or name == "@DEFAULT_MONITOR@"):
        raise SoundRefusedError(Error.ACCESS, "monitors are denied")
    if index not in {INVALID, virtual_devices.DEVICE}:
        raise SoundRefusedError(Error.ACCESS, f"source {index} is not available")
    if f.sandbox.hidden or (
        index == INVALID and name not in virtual_devices.SOURCE_NAMES
    ):
        raise SoundRefusedError(Error.NOENTITY, "no such source")


def source_info(f: PulseFilter, tag: int, fields: Fields) -> None:
    """GET_SOURCE_INFO, by index or by name."""
    check_source(f, fields.number(0), fields.text(1))
    f.reply(tag, virtual_devices.source(f.version))


def source_list(f: PulseFilter, tag: int, _fields: Fields) -> None:
    """GET_SOURCE_INFO_LIST: empty where recording is denied."""
    f.reply(tag, b"" if f.sandbox.hidden else virtual_devices.source(f.version))


def lookup_source(f: PulseFilter, tag: int, fields: Fields) -> None:
    """LOOKUP_SOURCE."""
    check_source(f, INVALID, fields.text(0))
    f.reply(tag, encode("L", [virtual_devices.DEVICE]))


# -- the sandbox's own clients and streams -------------------------------------------


def client_info(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Answer GET_CLIENT_INFO about one of the sandbox's connections."""
    member = f.sandbox.members.get(fields.number(0))
    if member is None:
        raise SoundRefusedError(
            Error.ACCESS, f"client {fields.number(0)} does not belong to the sandbox"
        )
    f.reply(tag, _client(f, member))


def client_list(f: PulseFilter, tag: int, _fields: Fields) -> None:
    """GET_CLIENT_INFO_LIST of the own connections."""
    f.reply(tag, b"".join(_client(f, m) for m in f.sandbox.members.values()))


def _client(f: PulseFilter, member: PulseFilter) -> bytes:
    shown = f.sandbox.labels.for_guest(member.properties)
    return virtual_devices.client(f.version, member.index, shown)


def sink_input(f: PulseFilter, tag: int, fields: Fields) -> None:
    """Answer GET_SINK_INPUT_INFO about a stream of this sandbox."""
    stream = f.own_playback(fields.number(0))

    def answered(reader: Reader) -> bytes:
        found = _own_inputs(f, reader)
        if not found:  # it has ended meanwhile
            raise SoundRefusedError(Error.NOENTITY, "no such sink input")
        return found

    f.relay(tag, _C.GET_SINK_INPUT_INFO, encode("L", [stream.real_index]), answered)


def sink_input_list(f: PulseFilter, tag: int, _fields: Fields) -> None:
    """Answer GET_SINK_INPUT_INFO_LIST with the server's replies about own streams.

    The server's list is not asked for: its duration reveals how many others play,
    and some bytes would make it list all of them.
    """
    streams = list(f.sandbox.playbacks.values())
    if not streams:
        f.reply(tag)
        return
    f.slow_down(f.sandbox.pace.take(f.now, len(streams)))
    listing = _Listing(f, tag, len(streams))
    for stream in streams:
        real = encode("L", [stream.real_index])
        f.ask(_C.GET_SINK_INPUT_INFO, real, listing.found, listing.gone)


class _Listing:
    """Puts one answer together out of several, in the order they come in."""

    def __init__(self, f: PulseFilter, tag: int, left: int) -> None:
        self._filter = f
        self._tag = tag
        self._left = left
        self._parts: list[bytes] = []

    def found(self, reader: Reader) -> None:
        """Add the reply about one stream."""
        self._parts.append(_own_inputs(self._filter, reader))
        self._count()

    def gone(self, _code: int) -> None:
        """Count a stream that has ended meanwhile."""
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self._filter.reply(self._tag, b"".join(self._parts))


def _own_inputs(f: PulseFilter, reader: Reader) -> bytes:
    """Return the answer's inputs that are the sandbox's."""
    signature = virtual_devices.signature(virtual_devices.SINK_INPUT, f.version)
    found: list[bytes] = []
    while reader.left:
        fields = reader.fields(signature)
        stream = f.sandbox.by_real.get(fields.number(0))
        # guard: own inputs only
        if stream is not None:
            found.append(encode(signature, _shown(f, fields, stream)))
    return b"".join(found)


# Places in view.SINK_INPUT.
(
    _INDEX, _NAME, _MODULE, _CLIENT, _SINK, _SPEC, _MAP, _VOLUME, _BUFFER_USEC, _SINK_USEC,
    _RESAMPLER, _DRIVER, _MUTE, _PROPERTIES,
) = range(14)  # fmt: skip


def _shown(f: PulseFilter, fields: Fields, stream: Playback) -> Fields:
    """Return the server's entry with our numbers and the client's own names."""
    level = f.sandbox.level
    shown = f.sandbox.labels.for_guest(stream.owner.properties)
    shown |= f.sandbox.labels.for_guest(stream.properties)
    name = stream.properties.get("media.name", b"").rstrip(b"\0").decode()
    fields[_INDEX], fields[_NAME] = stream.index, f.sandbox.labels.bare(name)
    fields[_MODULE], fields[_CLIENT] = INVALID, stream.owner.index
    fields[_SINK] = virtual_devices.DEVICE
    fields[_RESAMPLER] = fields[_DRIVER] = "vitrail"
    fields[_VOLUME] = stream.shown_volume(fields.numbers(_VOLUME))
    # The user's mute is not the client's: it is not reported.
    fields[_MUTE] = stream.muted if level.muted else fields.truth(_MUTE)
    fields[_PROPERTIES] = shown
    return fields


HANDLERS: dict[Command, Handler] = {
    _C.GET_SERVER_INFO: server_info,
    _C.STAT: stat,
    _C.SUBSCRIBE: subscribe,
    _C.GET_SINK_INFO: sink_info,
    _C.GET_SINK_INFO_LIST: sink_list,
    _C.LOOKUP_SINK: lookup_sink,
    _C.GET_SOURCE_INFO: source_info,
    _C.GET_SOURCE_INFO_LIST: source_list,
    _C.LOOKUP_SOURCE: lookup_source,
    _C.GET_CLIENT_INFO: client_info,
    _C.GET_CLIENT_INFO_LIST: client_list,
    _C.GET_SINK_INPUT_INFO: sink_input,
    _C.GET_SINK_INPUT_INFO_LIST: sink_input_list,
}
