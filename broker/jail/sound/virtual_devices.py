"""The sound server that a sandbox sees: one sink, perhaps one source, itself.

Nothing here comes from the real server, so nothing of it can be learned: no
hardware, no host or user, no other client.  Entries are complete for every
version of the protocol that we speak; libpulse refuses shorter ones.
"""

from __future__ import annotations

from broker.core.limits import sound as limits
from broker.jail.sound.commands import INVALID
from broker.jail.sound.samples import format_of
from broker.jail.sound.tagstruct import Format, Properties, Spec, Value, encode

SINK_NAME = "vitrail"
SOURCE_NAME = "vitrail.mic"
_NO_SOURCE = "@DEFAULT_SOURCE@"
DEVICE = 0
"""Index of the sink, and of the source."""

_SINK_TEXT = "Vitrail viewer"
_SOURCE_TEXT = "Vitrail microphone"
_SPEC = Spec(3, 2, 48000)
_STEREO = (1, 2)
_FULL = (limits.PULSE_VOLUME,) * 2
_LATENCY_FLAG = 0x0002
_DECIBEL_FLAG = 0x0020
_IDLE = 1
_DRIVER = "vitrail"
_COOKIE = 0x56545241

Parts = tuple[tuple[int, str, tuple[Value, ...]], ...]

SINK_NAMES = frozenset({None, SINK_NAME, "@DEFAULT_SINK@", str(DEVICE)})
SOURCE_NAMES = frozenset({None, SOURCE_NAME, "@DEFAULT_SOURCE@", str(DEVICE)})

SINK_INPUT = ((0, "LsLLLamvUUss"), (11, "b"), (13, "P"), (19, "b"), (20, "bb"), (21, "f"))  # fmt: skip
"""Fields of a sink input, by the version that brought them."""


def signature(parts: tuple[tuple[int, str], ...], version: int) -> str:
    """The letters that a version has."""
    return "".join(letters for since, letters in parts if since <= version)


def _entry(version: int, parts: Parts) -> bytes:
    return b"".join(
        encode(letters, values) for since, letters, values in parts if since <= version
    )


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def server_info(version: int, *, source: bool) -> bytes:
    """Encode the answer to GET_SERVER_INFO.

    Without a source its name is PipeWire's for none: SDL 2.26 (``ServerInfoCallback``)
    copies the name unchecked, and its programs end with SIGSEGV where it is NULL.
    """
    name = SOURCE_NAME if source else _NO_SOURCE
    return _entry(
        version,
        (
            (
                0,
                "ttttassL",
                (
                    "PulseAudio (Vitrail)",
                    "16.1",
                    "user",
                    "sandbox",
                    _SPEC,
                    SINK_NAME,
                    name,
                    _COOKIE,
                ),
            ),
            (15, "m", (_STEREO,)),
        ),
    )


def _device(version: int, name: str, text: str, formats_since: int) -> bytes:
    """Encode a virtual device with a text as its description."""
    properties: Properties = {"device.description": _text(text)}
    return _entry(
        version,
        (
            (
                0,
                "LttamLvbLsUtL",
                (
                    DEVICE,
                    name,
                    text,
                    _SPEC,
                    _STEREO,
                    INVALID,
                    _FULL,
                    False,
                    INVALID,
                    None,
                    0,
                    _DRIVER,
                    _LATENCY_FLAG | _DECIBEL_FLAG,
                ),
            ),
            (13, "PU", (properties, 0)),
            (15, "VLLL", (limits.PULSE_VOLUME, _IDLE, limits.PULSE_VOLUME + 1, INVALID)),
            (16, "Ls", (0, None)),
            (formats_since, "F", ([Format(1)],)),
        ),
    )  # fmt: skip


def sink(version: int) -> bytes:
    """Return the description of the only sink."""
    return _device(version, SINK_NAME, _SINK_TEXT, 21)


def source(version: int) -> bytes:
    """Return the description of the only source."""
    return _device(version, SOURCE_NAME, _SOURCE_TEXT, 22)


def client(version: int, index: int, properties: Properties) -> bytes:
    """Encode one connection of the sandbox as a client of the virtual server."""
    name = properties.get("application.name", b"").rstrip(b"\0").decode()
    return _entry(
        version,
        (
            (0, "LtLt", (index, name, INVALID, _DRIVER)),
            (13, "P", (properties,)),
        ),
    )


def source_output(
    version: int,
    *,
    index: int,
    client_index: int,
    spec: Spec,
    channel_map: tuple[int, ...],
    corked: bool,
    properties: Properties,
) -> bytes:
    """Encode one recording of the sandbox as a source output of the virtual server."""
    name = properties.get("media.name", b"").rstrip(b"\0").decode()
    full = (limits.PULSE_VOLUME,) * spec.channels
    return _entry(
        version,
        (
            (
                0,
                "LtLLLamUUtt",
                (
                    index,
                    name,
                    INVALID,
                    client_index,
                    DEVICE,
                    spec,
                    channel_map,
                    0,
                    0,
                    _DRIVER,
                    _DRIVER,
                ),
            ),
            (13, "P", (properties,)),
            (19, "b", (corked,)),
            (22, "vbbbf", (full, False, True, False, format_of(spec))),
        ),
    )
