"""Sample formats: sizes, silence, names."""

from __future__ import annotations

import json

from broker.core.limits import sound as limits
from broker.jail.sound.properties import PCM, value
from broker.jail.sound.tagstruct import Format, Spec

# Number in the protocol (pa_sample_format): name, bytes, byte of silence.
_FORMATS = (
    ("u8", 1, 0x80),
    ("aLaw", 1, 0xD5),
    ("uLaw", 1, 0xFF),
    ("s16le", 2, 0),
    ("s16be", 2, 0),
    ("float32le", 4, 0),
    ("float32be", 4, 0),
    ("s32le", 4, 0),
    ("s32be", 4, 0),
    ("s24le", 3, 0),
    ("s24be", 3, 0),
    ("s24-32le", 4, 0),
    ("s24-32be", 4, 0),
)
_NAMES = {name.lower(): number for number, (name, _, _) in enumerate(_FORMATS)}
_PLACES = {
    name: number
    for number, name in enumerate(
        (
            *("mono", "front-left", "front-right", "front-center", "rear-center"),
            *("rear-left", "rear-right", "lfe", "front-left-of-center"),
            *("front-right-of-center", "side-left", "side-right"),
            *(f"aux{number}" for number in range(32)),
            *("top-center", "top-front-left", "top-front-right", "top-front-center"),
            *("top-rear-left", "top-rear-right", "top-rear-center"),
        )
    )
}
"""pa_channel_position by name, as formats spell them."""
_COMMON = Spec(3, 2, 48000)
_MONO, _LEFT, _RIGHT = 0, 1, 2
_AUX = 12  # PA_CHANNEL_POSITION_AUX0


def is_valid(spec: Spec) -> bool:
    """Return whether format, channels and rate of samples are valid in the protocol."""
    return (
        spec.format < len(_FORMATS)
        and 0 < spec.channels <= limits.PULSE_CHANNELS_ANY
        and 0 < spec.rate <= 48000 * 16
    )


def are_places(positions: tuple[int, ...], spec: Spec) -> bool:
    """Return whether these are the places of that many channels."""
    # guard: places of loudspeakers
    return len(positions) == spec.channels and all(
        one < limits.PULSE_POSITIONS for one in positions
    )


def frame_bytes(spec: Spec) -> int:
    """Bytes of one sample of every channel."""
    return _FORMATS[spec.format][1] * spec.channels


def fill_byte(spec: Spec) -> int:
    """The byte that silence is made of."""
    return _FORMATS[spec.format][2]


def format_of(spec: Spec) -> Format:
    """Return a sample specification as a format (PulseAudio 1.0 and later)."""
    return Format(
        PCM,
        {
            "format.sample_format": value(json.dumps(_FORMATS[spec.format][0])),
            "format.rate": value(str(spec.rate)),
            "format.channels": value(str(spec.channels)),
        },
    )


def spec_of(form: Format) -> Spec | None:
    """Return the sample specification of a format; None if it leaves something open."""
    try:
        name, rate, channels = (
            json.loads(form.properties[f"format.{key}"].rstrip(b"\0"))
            for key in ("sample_format", "rate", "channels")
        )
    except (KeyError, ValueError, RecursionError):
        return None
    number = _NAMES.get(str(name).lower())
    if number is None or type(rate) is not int or type(channels) is not int:
        return None
    if not (0 < channels <= limits.PULSE_CHANNELS_ANY and 0 < rate < 1 << 31):
        return None
    return Spec(number, channels, rate)


def settled(forms: list[Format], asked: Spec) -> Spec:
    """Choose one kind of samples out of the client's formats.

    The first format that is complete; else the first one's values, and the
    requested ones besides.  The server would fill open ones with its hardware's.
    """
    for form in forms:
        spec = spec_of(form)
        if spec is not None:
            return spec
    known = asked if is_valid(asked) else _COMMON
    said = {key: _said(forms[0], key) for key in ("sample_format", "rate", "channels")}
    number = _NAMES.get(str(said["sample_format"]).lower(), known.format)
    rate, channels = said["rate"], said["channels"]
    return Spec(
        number,
        channels if type(channels) is int else known.channels,
        rate if type(rate) is int else known.rate,
    )


def _said(form: Format, key: str) -> object:
    try:
        found: object = json.loads(form.properties[f"format.{key}"].rstrip(b"\0"))
    except (KeyError, ValueError, RecursionError):
        return None
    return found


def places_of(forms: list[Format], channels: int) -> tuple[int, ...]:
    """Return the channel positions that the formats name, or the usual ones."""
    for form in forms:
        names = str(_said(form, "channel_map")).split(",")
        found = tuple(_PLACES[name] for name in names if name in _PLACES)
        if len(found) == channels:
            return found
    return channel_map(channels)


def channel_map(channels: int) -> tuple[int, ...]:
    """Return the usual positions for so many channels."""
    if channels == 1:
        return (_MONO,)
    if channels == 2:
        return (_LEFT, _RIGHT)
    return tuple(_AUX + number for number in range(channels))
