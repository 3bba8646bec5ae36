"""Orders about our own programs and the broker's processes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from broker.core.decoding import UNREADABLE
from broker.core.errors import InternalError
from broker.core.process_status import ProcessFigures
from broker.ipc.fork_server import ForkServerKind
from broker.ipc.session.order import ENDS, OrderMessage
from broker.wire.row import Empty, Row


class StartForkServer(OrderMessage, frozen=True):
    """Become a fork server.

    Descriptors: its client's socket, its standard error.

    No permit: it is one of those that the broker begins with, and its children are
    confined; whether workers may be without a jail where none can be built, the user has
    said.
    """

    program: ForkServerKind


Pid = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
PIDS = 1024
"""Most processes that are measured at one time."""


class MeasureProcesses(OrderMessage, frozen=True):
    """Measure processes.

    Descriptor of the answer: a pipe with the figures of those that are the broker's.

    No permit: a viewer has the figures of no other processes.
    """

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


class ReportState(OrderMessage, frozen=True):
    """Report to the service manager, if there is one, that the broker is in a state.

    No permit: a broker whose viewer was taken over is as ready as that one says.
    """

    state: Literal["ready", "stopping"]


START_FORK_SERVER = Row("StartForkServer", StartForkServer, Empty, *ENDS, takes=2)
MEASURE_PROCESSES = Row("MeasureProcesses", MeasureProcesses, Empty, *ENDS, gives=1)
REPORT_STATE = Row("ReportState", ReportState, Empty, *ENDS)
