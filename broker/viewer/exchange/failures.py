"""The reply that a sandbox receives for a failed request.

The words of a target's program, agent or worker, and of the host that starts it, would
carry data from the target to the source, which no rule permits.  So the source gets
a fixed message by the type of the failure; the target's own log has the words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from broker.core.errors import (
    IntegrityError,
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
    sole,
)
from broker.core.notify import Notify
from policy.names import ADMIN_NAMES

_WORDS: tuple[tuple[type[VitrailError], str], ...] = (
    (RefusedError, "rejected the request"),
    (PeerError, "closed the connection"),
    (SetupError, "could not be started"),
    (UpstreamError, "could not be reached"),
    (IntegrityError, "could not be started"),
    (InternalError, "could not be reached"),
)


DESKTOP = "the desktop"


class ShareableError(RefusedError):
    """A failure whose words are ours, or the asking sandbox's own."""


def shareable(error: VitrailError, target: str) -> VitrailError:
    """Return the error that the sandbox gets which asked for something of a target."""
    if isinstance(error, ShareableError):
        return error
    words = next((text for kind, text in _WORDS if isinstance(error, kind)), "failed")
    if target in {DESKTOP, *ADMIN_NAMES}:
        name, hint = DESKTOP, "look for the reason in the broker's log"
    else:
        name = target.removeprefix("@dispvm:")
        hint = f"to see the output of {name}, run 'brokerctl logs {name}'"
    # guard: a target's words stay with it
    return ShareableError(f"{name} {words}", hint=hint)


@contextmanager
def shareable_failures(
    target: str, notify: Notify | None = None, sandbox: str = "", title: str = ""
) -> Iterator[None]:
    """Convert the block's errors into those that the sandbox may see.

    ``notify``: of the user, by a ``title``, where the sandbox is not told all of it.
    """
    try:
        yield
    except (VitrailError, ExceptionGroup) as error:
        found = sole(error)
        if not isinstance(found, VitrailError):
            raise
        if notify is not None and not isinstance(found, ShareableError):
            # GNOME's banner shows both lines as one.
            text = ";\n".join(one for one in (found.message, found.hint) if one)
            notify(title, text[:600], sandbox=sandbox)
        # guard: a sandbox learns nothing of the desktop's printers by a failure
        # guard: a sandbox learns nothing of the desktop's files by a failure
        # guard: a failure of an ssh agent has nothing of its target's
        # guard: a call's failure has nothing of its target's
        raise shareable(found, target) from error
