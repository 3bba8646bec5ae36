"""The interface that the conversations of tests have in common, whatever the protocol.

A stage puts a client, one of our sans-IO cores and a model of the far end into one
process.  What a test asks of every core is written once, for a ``Stage``.
"""

from __future__ import annotations

from typing import Any, Protocol

from broker.core.errors import VitrailError
from tests.kit.wayland.client import ServerError


class Core(Protocol):
    """A core that reads a client's bytes."""

    @property
    def fault(self) -> Exception | None:
        """Why the connection is over; None while it lasts."""


class Stage(Protocol):
    """One connection: client, core and far end.

    ``sandbox`` is what connections of one sandbox share, ``now`` the time in seconds
    that the core is given.
    """

    now: float

    @property
    def core(self) -> Core:
        """The core between both."""

    @property
    def sandbox(self) -> Any:
        """Give it to a second stage for a second connection of the sandbox."""

    def raw(self, data: bytes) -> None:
        """Play bytes of the client, and all that follows, until both sides are silent.

        May raise the error that the client gets; ``core.fault`` is set in any case.
        """

    def pump(self) -> None:
        """Carry what waits between core and far end until both are silent."""


def fault_after(stage: Stage, hostile: bytes) -> Exception | None:
    """Play hostile bytes; return why the connection is over, if it is."""
    try:
        stage.raw(hostile)
    except (ServerError, VitrailError):
        assert stage.core.fault is not None, "an error that ended nothing"
    return stage.core.fault
