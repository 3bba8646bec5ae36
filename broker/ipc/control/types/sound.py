"""The sound of sandboxes, as ``brokerctl audio`` and the panel show and change it."""

from __future__ import annotations

from broker.ipc.control.types.base import ApiAnswer, ApiRequest


class SoundRequest(ApiRequest, frozen=True, kw_only=True):
    """Whose sound, and what to change; a field that is null stays as it is."""

    sandbox: str | None = None
    """A sandbox, or all of a record; null: all, and nothing is changed."""
    volume: int | None = None
    muted: bool | None = None
    microphone: bool | None = None


class SoundStatus(ApiAnswer, frozen=True):
    """A sandbox's row in a mixer.  Its texts are escaped."""

    sandbox: str
    volume: int
    muted: bool
    streams: int
    idle: int
    """Number of streams that have played nothing for a while."""
    rule: str
    """The microphone's: deny, ask or allow."""
    wanted: bool = False
    allowed: bool = False
    active: bool = False
    application: str = ""
    source: str = ""
    missing: str = ""


class SoundAnswer(ApiAnswer, frozen=True, kw_only=True):
    """Sandboxes whose programs have connected to the sound server, by name."""

    sandboxes: list[SoundStatus]
