"""``brokerctl audit``: ask the log, whether a broker runs or not."""

from __future__ import annotations

import sys
from contextlib import aclosing
from datetime import datetime

import rich_click as click
import trio
from rich.console import Console

from broker.audit import schema
from broker.audit.query import Filters, Found, Log, open_log
from broker.audit.times import parse_time
from broker.cli import render
from broker.cli.connect import offline_paths
from broker.cli.events import as_line, as_object
from broker.cli.pipes import reader_may_leave
from broker.core.errors import SetupError

_BEFORE_FOLLOWING = 10
"""Lines shown before following, as journalctl -f does."""


@click.command("audit")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is recorded.")
@click.option("--sandbox", "sandboxes", multiple=True, help="Only of this sandbox.")
@click.option("--kind", "kinds", multiple=True, help="Only this kind, as 'stream'.")
@click.option("--lease", "leases", multiple=True, help="Only of this lease.")
@click.option("-S", "--since", default="", help="Only from this time on, as '-2h'.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last N.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(
    *,
    follow: bool,
    sandboxes: tuple[str, ...],
    kinds: tuple[str, ...],
    leases: tuple[str, ...],
    since: str,
    lines: int | None,
    as_json: bool,
) -> None:
    """Show what the broker decided, and what came of it.

    Options given more than once mean "or", different ones mean "and".

    Exit code: 0 something was found, 1 nothing, 2 wrong call.
    """
    _check_kinds(kinds)
    filters = Filters(
        sandboxes=sandboxes,
        kinds=kinds,
        leases=leases,
        since_ns=_since(since) if since else None,
    )
    if follow and lines is None and not since:
        lines = _BEFORE_FOLLOWING
    show = _Printer(as_json=as_json, at_once=follow)
    with reader_may_leave(), open_log(offline_paths().audit) as log:
        newest = log.newest()
        for found in log.find(filters, last=lines):
            show.event(found)
        if follow:
            trio.run(_follow, log, filters, max(newest, show.last), show)
    if not show.last:
        sys.exit(1)


async def _follow(log: Log, filters: Filters, after: int, show: _Printer) -> None:
    async with aclosing(log.follow(filters, after=after)) as events:
        async for found in events:
            show.event(found)


class _Printer:
    """Prints events as they come; ``last`` is the last one's number."""

    def __init__(self, *, as_json: bool, at_once: bool) -> None:
        self.last = 0
        self._as_json = as_json
        self._at_once = at_once
        self._console = Console(highlight=False, soft_wrap=True)

    def event(self, found: Found) -> None:
        """Print one event."""
        self.last = found.sequence
        if self._as_json:
            render.json_line(as_object(found))
        elif self._console.is_terminal:
            self._console.print(as_line(found))
        else:
            sys.stdout.write(f"{as_line(found).plain}\n")
            if self._at_once:
                sys.stdout.flush()


def _since(text: str) -> int:
    try:
        return parse_time(text, datetime.now().astimezone())
    except SetupError as error:
        # A wrong call, and not "nothing was found", which is what 1 means here.
        raise click.UsageError(f"--since: {error.message}; {error.hint}") from error


def _check_kinds(kinds: tuple[str, ...]) -> None:
    """A typo must not look like a quiet log."""
    known = {*schema.KINDS, *(kind.partition(".")[0] for kind in schema.KINDS)}
    for kind in kinds:
        if kind not in known:
            raise click.UsageError(
                f"no kind of event is named {kind!r}; there are: "
                + ", ".join(sorted(schema.KINDS))
            )
