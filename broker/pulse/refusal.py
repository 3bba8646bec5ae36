"""A command that is answered with an error; the connection goes on."""

from __future__ import annotations

from broker.core.errors import RefusedError
from broker.pulse.commands import Error


class SoundRefusedError(RefusedError):
    """Answer with this error.  "Access denied" is also an event."""

    def __init__(self, code: Error, what: str) -> None:
        super().__init__(what)
        self.code = code
