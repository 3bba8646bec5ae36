"""Orders about our own programs and the broker's processes.

They need no warrant: each says why it harms nobody.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from broker.core.decoding import UNREADABLE, TypedMessage
from broker.core.errors import InternalError
from broker.core.process_status import ProcessFigures
from broker.ipc.fork_server import ForkServerKind


class StartForkServer(TypedMessage, frozen=True, tag="start-fork-server"):
    """Become a fork server.

    Descriptors: its client's socket, its standard error.  It is one of those that the
    broker begins with, and its children are confined; whether workers may be without a
    jail where none can be built, the user has said.
    """

    program: ForkServerKind


Pid = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
PIDS = 1024
"""Most processes that are measured at one time."""


class MeasureProcesses(TypedMessage, frozen=True, tag="measure-processes"):
    """Measure processes.  Answer: a pipe with the figures of those that are the broker's."""

    pids: Annotated[list[Pid], msgspec.Meta(max_length=PIDS)]


encode_figures = msgspec.json.Encoder().encode_lines
"""Return figures as lines, which may be joined."""
_decode_figures = msgspec.json.Decoder(ProcessFigures).decode_lines


def decode_figures(data: bytes) -> list[ProcessFigures]:
    """Return the figures of lines.  Raises InternalError."""
    try:
        return _decode_figures(data)
    except UNREADABLE as error:
        raise InternalError(f"not figures: {error}") from error


class ReportState(TypedMessage, frozen=True, tag="report-state"):
    """Report to the service manager, if there is one, that the broker is in a state.

    A broker whose viewer was taken over is as ready as that one says.
    """

    state: Literal["ready", "stopping"]


ProgramOrder: TypeAlias = StartForkServer | MeasureProcesses | ReportState
"""Orders of this family."""
