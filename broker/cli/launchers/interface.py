"""The interface of launchers: what brokerctl does for sandboxes of one kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from broker.cli.doctor.finding import Context, Finding
from broker.cli.run.progress import Steps
from broker.core.paths import Paths
from policy.records.model import Record


class RunRecord(Protocol):
    """Runs a record's program, or another one, to its end in a box or container."""

    def __call__(
        self, record: Record, argv: Sequence[str] | None, *, quiet: bool, as_json: bool
    ) -> int:
        """Return its exit code, 128 and more for a signal."""
        ...


async def _nothing(context: Context, records: Sequence[Record]) -> list[Finding]:
    del context, records
    return []


@dataclass(frozen=True, slots=True)
class Launcher:
    """The row of a kind.

    ``run``: of a kind that is held (``LaunchKind.holds``).
    ``make``: has the machine of a record while its block runs, where another program
    makes it for each run.
    ``programs``: those that it needs, each with its package of Debian.
    ``check``: what else records of the kind lack on this machine, for ``brokerctl doctor``.
    """

    run: RunRecord | None = None
    make: Callable[[Paths, Record, Steps], AbstractAsyncContextManager[None]] | None = (
        None
    )
    programs: tuple[tuple[str, str], ...] = ()
    check: Callable[[Context, Sequence[Record]], Awaitable[list[Finding]]] = _nothing
