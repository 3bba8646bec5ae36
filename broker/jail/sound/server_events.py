"""Unsolicited messages of the sound server: forwarded for own streams, else dropped.

Events about streams that have just been deleted are normal: both sides write
without waiting for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from broker.jail.sound import virtual_devices
from broker.jail.sound.commands import ChangeKind, Command, Facility
from broker.jail.sound.playback_stream import Playback
from broker.jail.sound.tagstruct import Fields, Reader, encode

if TYPE_CHECKING:
    from broker.jail.sound.filter import PulseFilter

_C = Command
_HARMLESS_EVENTS = frozenset({"request-cork", "request-uncork", "format-lost"})
_FACILITY = 0x000F
_CHANGE = 0x0030


def event(f: PulseFilter, number: int, reader: Reader) -> None:
    """Handle one event of the sound server; drop an unknown one."""
    about_stream = _STREAM_EVENTS.get(number)
    if about_stream is not None:
        letters, act = about_stream
        fields = reader.fields(letters)
        stream = f.playbacks.get(fields.number(0))
        if stream is not None:
            act(f, stream, fields, reader)
    elif number == _C.SUBSCRIBE_EVENT:
        _changed(f, reader.fields("LL"))
    elif number in _RECORD_EVENTS:
        f.recordings.event(Command(number), reader)


def _changed(f: PulseFilter, fields: Fields) -> None:
    """Pass a change of the sandbox's streams on to the client."""
    kind, index = fields.number(0), fields.number(1)
    stream = f.sandbox.by_real.get(index)
    # guard: a client gets changes of its streams only
    if (
        kind & _FACILITY == Facility.SINK_INPUT
        and kind & _CHANGE == ChangeKind.CHANGE
        and stream is not None
    ):
        f.notify(Facility.SINK_INPUT, ChangeKind.CHANGE, stream.index)


def _requested(
    f: PulseFilter, stream: Playback, fields: Fields, _reader: Reader
) -> None:
    stream.requested(fields.number(1))
    f.event(_C.REQUEST, encode("LL", fields))


def _plain(command: Command) -> _Act:
    def act(f: PulseFilter, stream: Playback, _fields: Fields, reader: Reader) -> None:
        f.event(command, encode("L", [stream.channel]) + reader.rest())

    return act


def _killed(f: PulseFilter, stream: Playback, fields: Fields, _reader: Reader) -> None:
    # guard: commands of a stream that the server ends
    stream.flush()
    stream.end()
    f.event(_C.PLAYBACK_STREAM_KILLED, encode("L", fields))


def _suspended(
    f: PulseFilter, _stream: Playback, fields: Fields, _reader: Reader
) -> None:
    f.event(_C.PLAYBACK_STREAM_SUSPENDED, encode("Lb", fields))


def _moved(f: PulseFilter, _stream: Playback, fields: Fields, reader: Reader) -> None:
    """The user has moved it: to the sandbox it is still the one sink."""
    # guard: where it moved to
    fields[1], fields[2] = virtual_devices.DEVICE, virtual_devices.SINK_NAME
    f.event(_C.PLAYBACK_STREAM_MOVED, encode("LLtb", fields) + reader.rest())


def _happened(
    f: PulseFilter, _stream: Playback, fields: Fields, _reader: Reader
) -> None:
    if fields.text(1) in _HARMLESS_EVENTS:
        fields[2] = {}
        f.event(_C.PLAYBACK_STREAM_EVENT, encode("LtP", fields))


_Act = Callable[["PulseFilter", Playback, Fields, Reader], None]
_STREAM_EVENTS: dict[int, tuple[str, _Act]] = {
    _C.REQUEST: ("LL", _requested),
    _C.STARTED: ("L", _plain(_C.STARTED)),
    _C.OVERFLOW: ("L", _plain(_C.OVERFLOW)),
    _C.UNDERFLOW: ("L", _plain(_C.UNDERFLOW)),
    _C.PLAYBACK_BUFFER_ATTR_CHANGED: ("L", _plain(_C.PLAYBACK_BUFFER_ATTR_CHANGED)),
    _C.PLAYBACK_STREAM_KILLED: ("L", _killed),
    _C.PLAYBACK_STREAM_SUSPENDED: ("Lb", _suspended),
    _C.PLAYBACK_STREAM_MOVED: ("LLsb", _moved),
    _C.PLAYBACK_STREAM_EVENT: ("LtP", _happened),
}
_RECORD_EVENTS = frozenset({_C.RECORD_STREAM_KILLED, _C.RECORD_STREAM_MOVED})
