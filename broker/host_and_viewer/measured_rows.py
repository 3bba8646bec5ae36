"""Rows of a status with the memory of their processes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import msgspec
import trio

from broker.core.process_status import ProcessFigures
from broker.ipc.control.types.status_rows import ProcessStatus

_LOOK_SECONDS = 3.0
Found: TypeAlias = dict[int, ProcessFigures]
Measure: TypeAlias = Callable[[Sequence[ProcessStatus], Found], Awaitable[None]]
"""Measures the processes of rows, and adds the figures of each when it has them."""


async def with_memory(
    rows: Sequence[ProcessStatus], measure: Measure
) -> list[ProcessStatus]:
    """Return the rows with their memory, and the jails of those without one.

    Those that have their memory already are not measured.
    """
    found: Found = {}
    # guard: a process that is slow to measure delays no status
    with trio.move_on_after(_LOOK_SECONDS):
        await measure([row for row in rows if not row.memory], found)
    return [_measured(row, found.get(row.pid, ProcessFigures(row.pid))) for row in rows]


def _measured(row: ProcessStatus, figures: ProcessFigures) -> ProcessStatus:
    memory, jail = row.memory or figures.memory, row.jail or figures.jail
    return msgspec.structs.replace(row, memory=memory, jail=jail)
