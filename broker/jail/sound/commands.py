"""The native protocol's commands: their numbers, and the handling of each.

``REQUESTS`` is the filter's table: a client cannot send any other command.
Numbers are those of protocol version 35 (PulseAudio 16, pipewire-pulse 0.3);
signatures are written in ``tagstruct``'s letters, each part with the protocol
version that brought it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType

from broker.core.errors import RefusedError

VERSION = 35
"""The newest version that we speak; both sides are held to it."""
OLDEST_VERSION = 13
"""PulseAudio 0.9.11 (2008): property lists came with it."""

INVALID = 0xFFFFFFFF
"""No index, no channel; also the channel number of control packets."""


class Command(IntEnum):
    """Every command of the protocol."""

    ERROR = 0
    TIMEOUT = 1
    REPLY = 2
    CREATE_PLAYBACK_STREAM = 3
    DELETE_PLAYBACK_STREAM = 4
    CREATE_RECORD_STREAM = 5
    DELETE_RECORD_STREAM = 6
    EXIT = 7
    AUTH = 8
    SET_CLIENT_NAME = 9
    LOOKUP_SINK = 10
    LOOKUP_SOURCE = 11
    DRAIN_PLAYBACK_STREAM = 12
    STAT = 13
    GET_PLAYBACK_LATENCY = 14
    CREATE_UPLOAD_STREAM = 15
    DELETE_UPLOAD_STREAM = 16
    FINISH_UPLOAD_STREAM = 17
    PLAY_SAMPLE = 18
    REMOVE_SAMPLE = 19
    GET_SERVER_INFO = 20
    GET_SINK_INFO = 21
    GET_SINK_INFO_LIST = 22
    GET_SOURCE_INFO = 23
    GET_SOURCE_INFO_LIST = 24
    GET_MODULE_INFO = 25
    GET_MODULE_INFO_LIST = 26
    GET_CLIENT_INFO = 27
    GET_CLIENT_INFO_LIST = 28
    GET_SINK_INPUT_INFO = 29
    GET_SINK_INPUT_INFO_LIST = 30
    GET_SOURCE_OUTPUT_INFO = 31
    GET_SOURCE_OUTPUT_INFO_LIST = 32
    GET_SAMPLE_INFO = 33
    GET_SAMPLE_INFO_LIST = 34
    SUBSCRIBE = 35
    SET_SINK_VOLUME = 36
    SET_SINK_INPUT_VOLUME = 37
    SET_SOURCE_VOLUME = 38
    SET_SINK_MUTE = 39
    SET_SOURCE_MUTE = 40
    CORK_PLAYBACK_STREAM = 41
    FLUSH_PLAYBACK_STREAM = 42
    TRIGGER_PLAYBACK_STREAM = 43
    SET_DEFAULT_SINK = 44
    SET_DEFAULT_SOURCE = 45
    SET_PLAYBACK_STREAM_NAME = 46
    SET_RECORD_STREAM_NAME = 47
    KILL_CLIENT = 48
    KILL_SINK_INPUT = 49
    KILL_SOURCE_OUTPUT = 50
    LOAD_MODULE = 51
    UNLOAD_MODULE = 52
    ADD_AUTOLOAD = 53
    REMOVE_AUTOLOAD = 54
    GET_AUTOLOAD_INFO = 55
    GET_AUTOLOAD_INFO_LIST = 56
    GET_RECORD_LATENCY = 57
    CORK_RECORD_STREAM = 58
    FLUSH_RECORD_STREAM = 59
    PREBUF_PLAYBACK_STREAM = 60
    REQUEST = 61
    OVERFLOW = 62
    UNDERFLOW = 63
    PLAYBACK_STREAM_KILLED = 64
    RECORD_STREAM_KILLED = 65
    SUBSCRIBE_EVENT = 66
    MOVE_SINK_INPUT = 67
    MOVE_SOURCE_OUTPUT = 68
    SET_SINK_INPUT_MUTE = 69
    SUSPEND_SINK = 70
    SUSPEND_SOURCE = 71
    SET_PLAYBACK_STREAM_BUFFER_ATTR = 72
    SET_RECORD_STREAM_BUFFER_ATTR = 73
    UPDATE_PLAYBACK_STREAM_SAMPLE_RATE = 74
    UPDATE_RECORD_STREAM_SAMPLE_RATE = 75
    PLAYBACK_STREAM_SUSPENDED = 76
    RECORD_STREAM_SUSPENDED = 77
    PLAYBACK_STREAM_MOVED = 78
    RECORD_STREAM_MOVED = 79
    UPDATE_RECORD_STREAM_PROPLIST = 80
    UPDATE_PLAYBACK_STREAM_PROPLIST = 81
    UPDATE_CLIENT_PROPLIST = 82
    REMOVE_RECORD_STREAM_PROPLIST = 83
    REMOVE_PLAYBACK_STREAM_PROPLIST = 84
    REMOVE_CLIENT_PROPLIST = 85
    STARTED = 86
    EXTENSION = 87
    GET_CARD_INFO = 88
    GET_CARD_INFO_LIST = 89
    SET_CARD_PROFILE = 90
    CLIENT_EVENT = 91
    PLAYBACK_STREAM_EVENT = 92
    RECORD_STREAM_EVENT = 93
    PLAYBACK_BUFFER_ATTR_CHANGED = 94
    RECORD_BUFFER_ATTR_CHANGED = 95
    SET_SINK_PORT = 96
    SET_SOURCE_PORT = 97
    SET_SOURCE_OUTPUT_VOLUME = 98
    SET_SOURCE_OUTPUT_MUTE = 99
    SET_PORT_LATENCY_OFFSET = 100
    ENABLE_SRBCHANNEL = 101
    DISABLE_SRBCHANNEL = 102
    REGISTER_MEMFD_SHMID = 103
    SEND_OBJECT_MESSAGE = 104


class Error(IntEnum):
    """Error codes (pulse/def.h) that we answer with."""

    ACCESS = 1
    COMMAND = 2
    INVALID = 3
    NOENTITY = 5
    PROTOCOL = 7
    KILLED = 12
    VERSION = 17
    TOOLARGE = 18
    NOTSUPPORTED = 19


class SoundRefusedError(RefusedError):
    """Answer with this error; the connection continues.  ACCESS is also an event."""

    def __init__(self, code: Error, what: str) -> None:
        super().__init__(what)
        self.code = code


class Facility(IntEnum):
    """Subject of a subscription event; the mask has bit ``1 << facility``."""

    SINK = 0
    SOURCE = 1
    SINK_INPUT = 2
    SOURCE_OUTPUT = 3
    CLIENT = 5
    SERVER = 7


class ChangeKind(IntEnum):
    """The kind of a change."""

    NEW = 0x00
    CHANGE = 0x10
    REMOVE = 0x20


class Way(Enum):
    """Treatment of a client's command by the filter."""

    HANDSHAKE = "handshake"
    PLAYBACK = "playback"
    """Is passed to the server; its first word is a playback channel of the client's."""
    LOCAL = "local"
    """Has a separate handler in ``filter`` or ``recording``."""
    EMPTY = "empty"
    """Answered with an empty list: there is nothing of that kind."""


@dataclass(frozen=True)
class ClientCommand:
    """A command that a client may send: its way and its fields."""

    way: Way
    parts: tuple[tuple[int, str], ...] = ((0, ""),)

    def signature(self, version: int) -> str:
        """The letters of its fields in that version of the protocol."""
        return "".join(letters for since, letters in self.parts if since <= version)


def _request(way: Way, *parts: str | tuple[int, str]) -> ClientCommand:
    return ClientCommand(
        way, tuple((0, part) if isinstance(part, str) else part for part in parts)
    )


_C = Command
_PLAYBACK, _LOCAL, _EMPTY = Way.PLAYBACK, Way.LOCAL, Way.EMPTY

REQUESTS: Mapping[Command, ClientCommand] = MappingProxyType(
    {
        _C.AUTH: _request(Way.HANDSHAKE, "Lx"),
        _C.SET_CLIENT_NAME: _request(Way.HANDSHAKE, "P"),
        # Playback
        _C.CREATE_PLAYBACK_STREAM: _request(
            _LOCAL,
            "amLsLbLLLLv" + "b" * 7 + "bbP",
            (14, "bb"),
            (15, "bbb"),
            (17, "b"),
            (18, "b"),
            (21, "F"),
        ),
        _C.DELETE_PLAYBACK_STREAM: _request(_LOCAL, "L"),
        _C.DRAIN_PLAYBACK_STREAM: _request(_LOCAL, "L"),
        _C.FLUSH_PLAYBACK_STREAM: _request(_LOCAL, "L"),
        _C.CORK_PLAYBACK_STREAM: _request(_PLAYBACK, "Lb"),
        _C.TRIGGER_PLAYBACK_STREAM: _request(_PLAYBACK, "L"),
        _C.PREBUF_PLAYBACK_STREAM: _request(_PLAYBACK, "L"),
        _C.GET_PLAYBACK_LATENCY: _request(_PLAYBACK, "LT"),
        _C.SET_PLAYBACK_STREAM_BUFFER_ATTR: _request(_LOCAL, "LLLLLb", (14, "b")),
        _C.UPDATE_PLAYBACK_STREAM_SAMPLE_RATE: _request(_LOCAL, "LL"),
        _C.UPDATE_PLAYBACK_STREAM_PROPLIST: _request(_LOCAL, "LLP"),
        _C.REMOVE_PLAYBACK_STREAM_PROPLIST: _request(_LOCAL, "Lk"),
        _C.SET_PLAYBACK_STREAM_NAME: _request(_LOCAL, "Lt"),
        _C.SET_SINK_INPUT_VOLUME: _request(_LOCAL, "Lv"),
        _C.SET_SINK_INPUT_MUTE: _request(_LOCAL, "Lb"),
        _C.UPDATE_CLIENT_PROPLIST: _request(_LOCAL, "LP"),
        _C.REMOVE_CLIENT_PROPLIST: _request(_LOCAL, "k"),
        # Looking around
        _C.GET_SERVER_INFO: _request(_LOCAL),
        _C.GET_SINK_INFO: _request(_LOCAL, "Ls"),
        _C.GET_SINK_INFO_LIST: _request(_LOCAL),
        _C.GET_SOURCE_INFO: _request(_LOCAL, "Ls"),
        _C.GET_SOURCE_INFO_LIST: _request(_LOCAL),
        _C.LOOKUP_SINK: _request(_LOCAL, "s"),
        _C.LOOKUP_SOURCE: _request(_LOCAL, "s"),
        _C.GET_CLIENT_INFO: _request(_LOCAL, "L"),
        _C.GET_CLIENT_INFO_LIST: _request(_LOCAL),
        _C.GET_SINK_INPUT_INFO: _request(_LOCAL, "L"),
        _C.GET_SINK_INPUT_INFO_LIST: _request(_LOCAL),
        _C.GET_SOURCE_OUTPUT_INFO: _request(_LOCAL, "L"),
        _C.GET_SOURCE_OUTPUT_INFO_LIST: _request(_LOCAL),
        _C.GET_MODULE_INFO_LIST: _request(_EMPTY),
        _C.GET_CARD_INFO_LIST: _request(_EMPTY),
        _C.GET_SAMPLE_INFO_LIST: _request(_EMPTY),
        _C.STAT: _request(_LOCAL),
        _C.SUBSCRIBE: _request(_LOCAL, "L"),
        # Recording
        _C.CREATE_RECORD_STREAM: _request(
            _LOCAL,
            "amLsLbL" + "b" * 7 + "bbPL",
            (14, "b"),
            (15, "bb"),
            (22, "Fvbbbbb"),
        ),
        _C.DELETE_RECORD_STREAM: _request(_LOCAL, "L"),
        _C.CORK_RECORD_STREAM: _request(_LOCAL, "Lb"),
        _C.FLUSH_RECORD_STREAM: _request(_LOCAL, "L"),
        _C.GET_RECORD_LATENCY: _request(_LOCAL, "LT"),
        _C.SET_RECORD_STREAM_BUFFER_ATTR: _request(_LOCAL, "LLLb", (14, "b")),
        _C.UPDATE_RECORD_STREAM_SAMPLE_RATE: _request(_LOCAL, "LL"),
        _C.UPDATE_RECORD_STREAM_PROPLIST: _request(_LOCAL, "LLP"),
        _C.REMOVE_RECORD_STREAM_PROPLIST: _request(_LOCAL, "Lk"),
        _C.SET_RECORD_STREAM_NAME: _request(_LOCAL, "Lt"),
        _C.SET_SOURCE_OUTPUT_VOLUME: _request(_LOCAL, "Lv"),
        _C.SET_SOURCE_OUTPUT_MUTE: _request(_LOCAL, "Lb"),
    }
)
"""Commands that a client may send.  A property list's keys to remove are ``k``."""

NOT_FROM_CLIENTS = frozenset(
    {
        _C.ERROR,
        _C.TIMEOUT,
        _C.REPLY,
        _C.REQUEST,
        _C.OVERFLOW,
        _C.UNDERFLOW,
        _C.PLAYBACK_STREAM_KILLED,
        _C.RECORD_STREAM_KILLED,
        _C.SUBSCRIBE_EVENT,
        _C.PLAYBACK_STREAM_SUSPENDED,
        _C.RECORD_STREAM_SUSPENDED,
        _C.PLAYBACK_STREAM_MOVED,
        _C.RECORD_STREAM_MOVED,
        _C.STARTED,
        _C.CLIENT_EVENT,
        _C.PLAYBACK_STREAM_EVENT,
        _C.RECORD_STREAM_EVENT,
        _C.PLAYBACK_BUFFER_ATTR_CHANGED,
        _C.RECORD_BUFFER_ATTR_CHANGED,
    }
)
"""Commands of servers only: a client that sends one has broken the protocol."""

REFUSED = frozenset(Command) - frozenset(REQUESTS) - NOT_FROM_CLIENTS
"""Known and not allowed: answered with "access denied", and an event.  Modules,
samples, devices' volumes, defaults, cards, ports, kill, move, exit, ..."""
