"""A fleet's store as a source of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import rich_click as click

from broker.authority.audit.proof.note import Note
from broker.cli.audit.event_text import Asked
from broker.cli.audit.proof.shipped import check
from broker.cli.audit.proof.verify import Report
from broker.cli.audit.query.fleet_database import Fleet, FleetLog, open_fleet
from broker.core.errors import SetupError
from broker.core.escape import printable
from broker.ipc.audit.counts import Counts
from broker.ipc.audit.filters import Filters, Found


@dataclass
class FleetSource:
    """All machines' events."""

    fleet: Fleet

    def filters(self, asked: Asked) -> Filters | None:
        """As they were asked."""
        return asked.filters

    def find(
        self,
        filters: Filters,
        *,
        cursor: str = "",
        last: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Found]:
        """Yield what matches and has arrived after ``cursor``."""
        try:
            return self.fleet.find(
                filters, cursor=cursor, last=last, newest_first=newest_first
            )
        except ValueError as error:
            raise click.UsageError(
                f"no cursor of a fleet's store: {printable(cursor, 80)!r}"
            ) from error

    def cursor(self, found: Found) -> str:
        """Everything that had arrived when the question was asked."""
        del found
        return self.fleet.horizon

    def follow(
        self, filters: Filters, *, shown: Found | None, cursor: str
    ) -> AsyncGenerator[Found, None]:
        """Yield what arrives from now on."""
        del shown, cursor
        return self.fleet.follow(filters, cursor=self.fleet.horizon)

    def counts(self, filters: Filters, top: int) -> Counts:
        """Count what matches."""
        return self.fleet.counts(filters, top)


@contextmanager
def open_fleet_source(address: str) -> Iterator[FleetSource]:
    """Open a fleet's store; raises SetupError and UpstreamError."""
    with open_fleet(address) as fleet:
        yield FleetSource(fleet)


def verify_fleet(
    address: str, machines: Sequence[str], kept: Sequence[tuple[str, Note]]
) -> list[tuple[FleetLog, Report]]:
    """Compare what the store has with what each machine signed: log and report.

    ``kept`` are checkpoints from elsewhere, of any of the logs.
    """
    with open_fleet(address) as fleet:
        logs = fleet.logs(machines)
        if not logs:
            raise SetupError(
                "no such machine ships to this database",
                hint=f"there are: {', '.join(map(printable, fleet.machines())) or 'none'}",
            )
        return [
            (log, check(log.name, _with(fleet, log, kept), fleet.leaves(log)))
            for log in logs
        ]


def _with(fleet: Fleet, log: FleetLog, kept: Sequence[tuple[str, Note]]) -> list[str]:
    own = [n.whole for _, n in kept if n.checkpoint.origin.endswith(f"/{log.name}")]
    return [*fleet.notes(log), *own]


def fleet_notes(address: str, machines: Sequence[str]) -> list[str]:
    """The checkpoints that the store has of these machines' logs."""
    with open_fleet(address) as fleet:
        return [note for log in fleet.logs(machines) for note in fleet.notes(log)]
