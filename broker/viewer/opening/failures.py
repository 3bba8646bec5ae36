"""What a sandbox is told of a request that failed.

The words of a target's program, agent or worker, and of the host that starts it, would
carry data from the target to the source, which no rule permits.  So the source gets
a fixed message by the type of the failure; the target's own log has the words.
"""

from __future__ import annotations

from broker.core.errors import (
    IntegrityError,
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)

_WORDS: tuple[tuple[type[VitrailError], str], ...] = (
    (RefusedError, "refused it"),
    (PeerError, "broke it off"),
    (SetupError, "cannot be started"),
    (UpstreamError, "could not be reached"),
    (IntegrityError, "cannot be started"),
    (InternalError, "could not be reached"),
)


class ToldError(RefusedError):
    """A failure whose words are ours, or the asking sandbox's own."""


def told(error: VitrailError, target: str) -> VitrailError:
    """Return the error that the sandbox gets which asked for something of a target."""
    if isinstance(error, ToldError):
        return error
    words = next((text for kind, text in _WORDS if isinstance(error, kind)), "failed")
    # guard: a target's words stay with it
    return ToldError(
        f"{target} {words}", hint=f"'brokerctl logs {target}' shows what it wrote"
    )
