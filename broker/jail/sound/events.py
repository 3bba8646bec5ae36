"""The events of a filter: for the audit log, the indicator, the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class CommandRefused:
    """A client's request was refused.  ``what`` is escaped or our own text."""

    command: str
    what: str


@dataclass(frozen=True)
class StreamBegun:
    """A stream plays (or records); ``index`` is the sandbox's number for it."""

    index: int
    application: str
    recording: bool = False


@dataclass(frozen=True)
class StreamEnded:
    """That stream is over."""

    index: int
    recording: bool = False


@dataclass(frozen=True)
class MicrophoneWanted:
    """A client records, and whether it may hear is not decided yet."""

    application: str


@dataclass(frozen=True)
class MicrophoneUnwanted:
    """Nothing records any more."""


@dataclass(frozen=True)
class MicrophoneActive:
    """The real source is open for this sandbox, or not any more."""

    active: bool
    source: str = ""


@dataclass(frozen=True)
class MicrophoneMissing:
    """The sandbox may hear the user, but there is nothing to hear with."""

    reason: str


@dataclass(frozen=True)
class Flooded:
    """A stream was sent more than the server asked for; some was dropped."""

    index: int


SoundEvent: TypeAlias = (
    CommandRefused
    | StreamBegun
    | StreamEnded
    | MicrophoneWanted
    | MicrophoneUnwanted
    | MicrophoneActive
    | MicrophoneMissing
    | Flooded
)
