"""Sound rules of one sandbox: values that policy compiles to.

The viewer compiles them from a record and the user's settings, the worker applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from broker.core.limits import sound as limits


class Microphone(StrEnum):
    """Whether a sandbox may ever hear the user."""

    DENY = "deny"
    """There is no source; recording is "access denied"."""
    ASK = "ask"
    """There is a source; it is silent until the user has allowed it."""
    ALLOW = "allow"
    """There is a source; recording opens the real one."""


class Revoked(StrEnum):
    """Treatment of a recording whose permission was denied or revoked."""

    SILENCE = "silence"
    """The recording continues, and every sample of it is silent."""
    END = "end"
    """The recording is ended, and the source is no longer shown."""


@dataclass(frozen=True)
class SoundRules:
    """The compiled rules of one sandbox; units and reasons are in ``limits``."""

    name: str
    """Shown before every name that the sound server gets from it."""
    microphone: Microphone = Microphone.DENY
    revoked: Revoked = Revoked.SILENCE
    streams: int = limits.PULSE_STREAMS_PER_SANDBOX
    rate: int = limits.PULSE_RATE
    channels: int = limits.PULSE_CHANNELS
    buffer_bytes: int = limits.PULSE_BUFFER_BYTES
    volume: int = limits.PULSE_VOLUME
    """The loudest that a stream may be; 65536 is 100 %."""
    idle_seconds: float = limits.PULSE_IDLE_SECONDS
    icon: str = "computer"
    """Icon of its streams in mixers, a name of the icon theme."""
    sink: str | None = None
    """The real sink; None is the user's default."""
    source: str | None = None
    """The real source; None is the user's default."""


@dataclass(frozen=True)
class Level:
    """The user's setting for a whole sandbox in the mixer."""

    volume: int = limits.PULSE_VOLUME
    """0 to 65536 (100 %), multiplied with the volume of each stream."""
    muted: bool = False
