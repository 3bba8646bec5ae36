"""Control of a sound filter without a broker: the user decides, not rules."""

from __future__ import annotations

from pathlib import Path

import trio

from broker.core.errors import RefusedError
from broker.core.escape import printable
from broker.core.streams.sound_rules import Level, Microphone
from broker.jail.sound import events
from broker.jail.worker.sound.connection import PulseService
from broker.viewer.sound.indicator import Indicator
from broker.viewer.sound.levels import save_level
from broker.viewer.sound.mixer import SoundStatus


class LoneDesk:
    """Microphone and volume control of a filter that runs without a broker.

    See ``viewer.sound.mixer.Desk``.
    """

    def __init__(
        self, service: PulseService, levels: Path, indicator: Indicator
    ) -> None:
        self._service = service
        self._levels = levels
        self._indicator = indicator
        self._application = self._source = self._missing = ""

    def event(self, event: events.SoundEvent) -> None:
        """Store what an event says about the microphone, and show its use."""
        match event:
            case events.MicrophoneWanted(application):
                self._application, self._missing = printable(application, 120), ""
            case events.MicrophoneActive(active, source):
                self._source = printable(source, 200)
                self._indicator.show(
                    self._service.sandbox.rules.name, active=active, source=source
                )
            case events.MicrophoneMissing(reason):
                self._missing = reason
            case _:
                pass

    def status(self) -> SoundStatus:
        """The current status."""
        sandbox = self._service.sandbox
        return SoundStatus(
            sandbox=sandbox.rules.name,
            volume=sandbox.level.volume,
            muted=sandbox.level.muted,
            streams=len(sandbox.playbacks),
            idle=sandbox.idle(trio.current_time()),
            rule=sandbox.rules.microphone.value,
            wanted=sandbox.wanted,
            allowed=sandbox.allowed,
            active=sandbox.active,
            application=self._application,
            source=self._source,
            missing=self._missing,
        )

    async def set_level(self, level: Level) -> None:
        """Set and store the volume.  Raises OSError."""
        sandbox = self._service.sandbox
        save_level(self._levels, sandbox.rules.name, level)
        sandbox.set_level(level)

    async def set_microphone(self, *, allow: bool) -> None:
        """Allow or deny the sandbox the microphone.

        Returns when the change is in effect.  Raises RefusedError if the filter was
        started without one.
        """
        sandbox = self._service.sandbox
        if not allow:
            await self._service.revoke_microphone()
        elif sandbox.rules.microphone is Microphone.DENY:
            raise RefusedError(
                "cannot allow the microphone: the sound filter was started with --microphone deny",
                hint="start 'brokerctl proxy pulse' again with --microphone ask",
            )
        else:
            sandbox.allow_microphone(trio.current_time())
