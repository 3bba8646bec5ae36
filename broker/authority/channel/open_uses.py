"""Uses of microphone, camera and screen that a client has recorded and not ended.

Sans-IO except for the clock.  If the client dies, the authority records their end: the use
has ended with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from broker.core.limits import authority as authority_limits
from broker.ipc.audit import schema

_End: TypeAlias = schema.MicrophoneOff | schema.CameraOff | schema.ScreenOff
_ENDS: Mapping[type[schema.Event], type[_End]] = MappingProxyType(
    {
        schema.MicrophoneOn: schema.MicrophoneOff,
        schema.CameraOn: schema.CameraOff,
        schema.ScreenOn: schema.ScreenOff,
    }
)


class OpenUses:
    """The uses that one client has recorded."""

    def __init__(self) -> None:
        self._begun: dict[tuple[type[_End], str, int], tuple[schema.Event, float]] = {}

    def take(self, event: schema.Event) -> None:
        """Note a recorded event, if a use begins or ends with it."""
        kind = _ENDS.get(type(event))
        # guard: a client has a bounded number of open uses
        if kind and len(self._begun) < authority_limits.AUTHORITY_LEASES:
            key = kind, event.lease, event.stream
            self._begun[key] = event, time.monotonic()
        elif isinstance(event, _End):
            self._begun.pop((type(event), event.lease, event.stream), None)

    def end(self) -> list[_End]:
        """Return the events of the ends of all open uses."""
        now = time.monotonic()
        return [
            kind(
                sandbox=event.sandbox,
                lease=event.lease,
                generation=event.generation,
                stream=event.stream,
                seconds=now - since,
            )
            for (kind, _, _), (event, since) in self._begun.items()
        ]
