"""A row for each command of the native protocol (``commands.Command``)."""

from __future__ import annotations

from collections.abc import Mapping

from broker.jail.sound.commands import NOT_FROM_CLIENTS, REFUSED, REQUESTS, Command
from docs.tables.channel import ChannelPolicy, no_descriptors

_ANY = "any client of the sandbox"
_READY = "after the handshake"
_OWN = "for a stream of its connection"
_ITS = "for a stream of its sandbox"
_ONE = "one command; PULSE_COMMANDS_PER_SECOND bounds it"
_NONE = "none: the filter answers"
_C = Command


def _own(gain: str, cost: str = _ONE) -> ChannelPolicy:
    return no_descriptors(_ANY, _OWN, cost, gain)


def _look(gain: str) -> ChannelPolicy:
    return no_descriptors(_ANY, _READY, _NONE, gain)


_NOTHING_THERE = _look("Learns nothing: the list is empty.")
_SINK = _look("Learns of one sink, whose name and values are ours.")
_SOURCE = _look("Learns of our one source, where the rules let it record.")
_CLIENTS = _look("Learns of its sandbox's clients and streams.")
_TITLE = no_descriptors(
    _ANY, _OWN, "one command; titles have a pace", "Text after the sandbox's name."
)
_HEARD = no_descriptors(
    "a client that records, where record and rules allow the microphone",
    _OWN,
    _ONE,
    "Nothing beyond the recording itself.",
)

_ALLOWED: Mapping[Command, ChannelPolicy] = {
    _C.AUTH: no_descriptors(
        _ANY,
        "first, once",
        "one command with our own cookie",
        "Chooses the protocol's version; its cookie is not looked at.",
    ),
    _C.SET_CLIENT_NAME: no_descriptors(
        _ANY, "second, once", "one command", "Text after the sandbox's name."
    ),
    # -- playback --------------------------------------------------------------
    _C.CREATE_PLAYBACK_STREAM: no_descriptors(
        _ANY,
        f"{_READY}, below PULSE_STREAMS_PER_CONNECTION",
        "a stream with a buffer of the rules' size",
        "Is heard, at most as loud as the record says.",
    ),
    _C.DELETE_PLAYBACK_STREAM: _own("Nothing: it ends its stream."),
    _C.DRAIN_PLAYBACK_STREAM: _own("Learns when its samples were played."),
    _C.FLUSH_PLAYBACK_STREAM: _own("Nothing: its samples are dropped."),
    _C.CORK_PLAYBACK_STREAM: _own("Pauses its stream."),
    _C.TRIGGER_PLAYBACK_STREAM: _own("Starts its stream early."),
    _C.PREBUF_PLAYBACK_STREAM: _own("Starts its stream late."),
    _C.GET_PLAYBACK_LATENCY: _own("Learns the delay of its stream."),
    _C.SET_PLAYBACK_STREAM_BUFFER_ATTR: _own("A buffer inside the rules' size."),
    _C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE: _own("A rate inside the rules' bounds."),
    _C.UPDATE_PLAYBACK_STREAM_PROPLIST: _TITLE,
    _C.REMOVE_PLAYBACK_STREAM_PROPLIST: _TITLE,
    _C.SET_PLAYBACK_STREAM_NAME: _TITLE,
    _C.SET_SINK_INPUT_VOLUME: no_descriptors(
        _ANY, _ITS, _ONE, "Its stream louder, at most as the record says."
    ),
    _C.SET_SINK_INPUT_MUTE: no_descriptors(
        _ANY, _ITS, _ONE, "Its stream silent, or not."
    ),
    _C.UPDATE_CLIENT_PROPLIST: _TITLE,
    _C.REMOVE_CLIENT_PROPLIST: _TITLE,
    # -- looking around --------------------------------------------------------
    _C.GET_SERVER_INFO: _look("Learns our names for server, sink and source."),
    _C.GET_SINK_INFO: _SINK,
    _C.GET_SINK_INFO_LIST: _SINK,
    _C.GET_SOURCE_INFO: _SOURCE,
    _C.GET_SOURCE_INFO_LIST: _SOURCE,
    _C.LOOKUP_SINK: _SINK,
    _C.LOOKUP_SOURCE: _SOURCE,
    _C.GET_CLIENT_INFO: _CLIENTS,
    _C.GET_CLIENT_INFO_LIST: _CLIENTS,
    _C.GET_SINK_INPUT_INFO: _CLIENTS,
    _C.GET_SINK_INPUT_INFO_LIST: _CLIENTS,
    _C.GET_SOURCE_OUTPUT_INFO: _CLIENTS,
    _C.GET_SOURCE_OUTPUT_INFO_LIST: _CLIENTS,
    _C.GET_MODULE_INFO_LIST: _NOTHING_THERE,
    _C.GET_CARD_INFO_LIST: _NOTHING_THERE,
    _C.GET_SAMPLE_INFO_LIST: _NOTHING_THERE,
    _C.STAT: _look("Learns nothing: the numbers are ours."),
    _C.SUBSCRIBE: _look("Learns when its sandbox's streams change."),
    # -- recording -------------------------------------------------------------
    _C.CREATE_RECORD_STREAM: no_descriptors(
        "a client of a sandbox whose record and rules allow the microphone",
        f"{_READY}, below PULSE_STREAMS_PER_CONNECTION",
        "one recording of the real source for the sandbox, by our own choice",
        "Hears the microphone while the signs of a use show it; silence otherwise.",
    ),
    _C.DELETE_RECORD_STREAM: _HEARD,
    _C.CORK_RECORD_STREAM: _HEARD,
    _C.FLUSH_RECORD_STREAM: _HEARD,
    _C.GET_RECORD_LATENCY: _HEARD,
    _C.SET_RECORD_STREAM_BUFFER_ATTR: _HEARD,
    _C.UPDATE_RECORD_STREAM_SAMPLE_RATE: _HEARD,
    _C.UPDATE_RECORD_STREAM_PROPLIST: _TITLE,
    _C.REMOVE_RECORD_STREAM_PROPLIST: _TITLE,
    _C.SET_RECORD_STREAM_NAME: _TITLE,
    _C.SET_SOURCE_OUTPUT_VOLUME: no_descriptors(
        _ANY, _ITS, _NONE, "Its recording louder; the real source stays."
    ),
    _C.SET_SOURCE_OUTPUT_MUTE: no_descriptors(
        _ANY, _ITS, _NONE, "Its recording silent, or not."
    ),
}
_DENIED = no_descriptors(
    "no client",
    "never: answered with access denied",
    _NONE,
    "Nothing; an event is written.",
)
_SERVERS = no_descriptors(
    "the sound server",
    "for the connection's own streams; from a client it ends the connection",
    "none: the filter checks it and informs the client",
    "Learns about its streams.",
)

POLICIES: Mapping[Command, ChannelPolicy] = {
    **_ALLOWED,
    **dict.fromkeys(REFUSED, _DENIED),
    **dict.fromkeys(NOT_FROM_CLIENTS, _SERVERS),
}
"""Every command of the protocol."""


def happens(command: Command) -> str:
    """Return the treatment of a command by the filter, in a word."""
    if command in REQUESTS:
        return REQUESTS[command].way.value
    return "refused" if command in REFUSED else "from the server"
