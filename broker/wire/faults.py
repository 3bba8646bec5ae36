"""The names of errors in messages between processes, one vocabulary on every wire.

Authority, host, viewer and session children name an error by these; brokerctl makes it
an error again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from broker.core.errors import (
    InternalError,
    PeerError,
    RefusedError,
    SetupError,
    UpstreamError,
    VitrailError,
)


class NotFoundError(RefusedError):
    """No such sandbox, record, lease or program."""


class HeldError(RefusedError):
    """A program of the sandbox has files of a shared folder open."""


# The names of errors in messages between processes; more special ones come first.
FAULTS: Mapping[str, type[VitrailError]] = MappingProxyType(
    {
        "not found": NotFoundError,
        "held": HeldError,
        "refused": RefusedError,
        "upstream": UpstreamError,
        "setup": SetupError,
        "peer": PeerError,
    }
)


def fault_of(error: VitrailError) -> str:
    """Return the name of an error's kind; "internal" for all that have no other."""
    kinds = (name for name, kind in FAULTS.items() if isinstance(error, kind))
    return next(kinds, "internal")


def from_fault(fault: str, message: str, hint: str, where: str) -> VitrailError:
    """Return the error that a message tells of, to be raised in the other process."""
    return FAULTS.get(fault, InternalError)(message, hint=hint, where=where)
