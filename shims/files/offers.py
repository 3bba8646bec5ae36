"""Whether a rule may allow a service of the portal; else programs use their built-in parts."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from shims.files.connection import Connection
from shims.files.protocol import TransferError, frame

if TYPE_CHECKING:
    from typing import Any, Dict

OFFER_SECONDS, OFFERED_AGAIN_SECONDS = 5.0, 20.0


class PortalOffer:
    """The answer for one service; the broker is asked again after a while."""

    def __init__(self, ask: Dict[str, Any]) -> None:
        self._ask = ask
        self._held = False
        self._looked = -OFFERED_AGAIN_SECONDS

    def held(self) -> bool:
        """Whether a rule may allow it."""
        now = time.monotonic()
        if now - self._looked >= OFFERED_AGAIN_SECONDS:
            self._looked, self._held = now, False
            with contextlib.suppress(TransferError, OSError):
                connection = Connection("VITRAIL_CALL")
                with connection.socket:
                    connection.socket.settimeout(OFFER_SECONDS)
                    connection.send(frame(self._ask))
                    connection.wait("done")
                    self._held = True
        return self._held
