"""Changes of one sandbox's sound, and the methods of what filters it.

A changed microphone is answered when the change is in effect.
"""

from __future__ import annotations

from typing import Protocol

from broker.core.errors import RefusedError, SetupError
from broker.core.limits import sound as pulse_limits
from broker.core.streams.sound_rules import Level
from broker.ipc.control.types.sound import SoundRequest, SoundStatus


class Desk(Protocol):
    """A sandbox's sound filter, as a mixer uses it."""

    def status(self) -> SoundStatus:
        """How it is now."""
        ...

    async def set_level(self, level: Level) -> None:
        """Set the sandbox's volume, and store it.  Raises OSError."""
        ...

    async def set_microphone(self, *, allow: bool) -> None:
        """Allow or end the microphone; returns when that is done.  Raises RefusedError."""
        ...


async def change_sound(desk: Desk, request: SoundRequest) -> SoundStatus:
    """Apply a request to a sound filter; return its status afterwards.

    Raises RefusedError, and SetupError if the level cannot be stored.
    """
    now = desk.status()
    if request.volume is not None or request.muted is not None:
        volume = now.volume if request.volume is None else request.volume
        if not 0 <= volume <= pulse_limits.PULSE_VOLUME:
            raise RefusedError("the volume must be between 0 and 65536")
        muted = now.muted if request.muted is None else request.muted
        try:
            await desk.set_level(Level(volume, muted))
        except OSError as error:
            raise SetupError(f"cannot store the level: {error.strerror}") from error
    if request.microphone is not None:
        await desk.set_microphone(allow=request.microphone)
    return desk.status()
