"""A fleet's store as a source of events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import rich_click as click

from broker.audit.counts import Counts
from broker.audit.filters import Filters, Found
from broker.audit.ship.fleet import Fleet, open_fleet
from broker.cli.audit_words import Asked
from broker.core.escape import printable


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
