"""Sample formats: sizes, silence, names."""

from __future__ import annotations

import json

from broker.core import limits
from broker.pulse.properties import PCM, value
from broker.pulse.tagstruct import Format, Spec

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
_MONO, _LEFT, _RIGHT = 0, 1, 2
_AUX = 12  # PA_CHANNEL_POSITION_AUX0


def is_valid(spec: Spec) -> bool:
    """Whether the protocol knows such samples."""
    return (
        spec.format < len(_FORMATS)
        and 0 < spec.channels <= limits.PULSE_CHANNELS_ANY
        and 0 < spec.rate <= 48000 * 16
    )


def frame_bytes(spec: Spec) -> int:
    """Bytes of one sample of every channel."""
    return _FORMATS[spec.format][1] * spec.channels


def fill_byte(spec: Spec) -> int:
    """The byte that silence is made of."""
    return _FORMATS[spec.format][2]


def format_of(spec: Spec) -> Format:
    """The same in the words of a format (PulseAudio 1.0 and later)."""
    return Format(
        PCM,
        {
            "format.sample_format": value(json.dumps(_FORMATS[spec.format][0])),
            "format.rate": value(str(spec.rate)),
            "format.channels": value(str(spec.channels)),
        },
    )


def spec_of(form: Format) -> Spec | None:
    """The samples that a format names; None when it leaves something open."""
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


def channel_map(channels: int) -> tuple[int, ...]:
    """Positions for a client that has named none."""
    if channels == 1:
        return (_MONO,)
    if channels == 2:
        return (_LEFT, _RIGHT)
    return tuple(_AUX + number for number in range(channels))
