"""``brokerctl audit gc``: remove old events, and keep every proof valid."""

from __future__ import annotations

import time

import rich_click as click
import trio

from broker.authority.audit.settings import load_settings, take_span
from broker.authority.audit.store import open_store
from broker.cli import render
from broker.cli.run.connect import offline_paths, open_client
from broker.core.errors import SetupError
from broker.core.paths import Paths
from broker.helpers.shipper.state import unshipped
from broker.ipc.control.api import AuditPruneRequest, Nothing
from broker.ipc.control.methods import AUDIT_PRUNE, GET_VERSION


@click.command("gc")
@click.option(
    "--keep",
    default="",
    metavar="SPAN",
    help="Remove events that are older than this, such as '90d'.",
)
@click.option(
    "--max-megabytes",
    type=click.IntRange(min=1),
    help="Also remove the oldest events, with their hashes, while the log is larger than this.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def gc_command(*, keep: str, max_megabytes: int | None, as_json: bool) -> None:
    """Remove the bodies of old events; the remaining events can still be proved.

    Events that a receiver of ship.toml has not received are kept until the log is twice
    as large as its limit.

    Without options, the limits of audit.toml apply.  A running broker removes old events
    automatically; this command asks it to do so now.

    Exit code: 0 done, 1 failed, 2 usage error.
    """
    try:
        seconds = take_span(keep) if keep else None
    except ValueError as error:
        raise click.UsageError(f"--keep: {error}") from error
    removed = trio.run(_prune, offline_paths(), seconds, max_megabytes)
    if as_json:
        render.json_line({"removed": removed})
    else:
        render.note(f"removed {removed} events")


async def _prune(paths: Paths, seconds: int | None, megabytes: int | None) -> int:
    """Remove old events, by the broker if one runs; return how many."""
    if not paths.audit.exists():
        raise SetupError(
            f"there is no audit log yet ({paths.audit})",
            hint="a broker begins the log when it starts: run 'brokerctl run "
            "SANDBOX', or on the host of two machines 'vitrail-host'",
        )
    request = AuditPruneRequest(keep_seconds=seconds, max_megabytes=megabytes)
    if await _broker_runs(paths):
        async with open_client(paths) as client:
            return (await client.call(AUDIT_PRUNE, request)).removed
    settings = load_settings(paths.config)
    if seconds is None and megabytes is None:
        seconds, megabytes = settings.keep_seconds, settings.max_megabytes
    before = None if seconds is None else time.time_ns() - seconds * 1_000_000_000
    most = None if megabytes is None else megabytes << 20
    async with open_store(paths.audit, broker="brokerctl", settings=settings) as store:
        waiting = unshipped(paths)
        shipped = None if waiting is None else waiting.sequence
        return await store.prune(before_ns=before, most=most, shipped=shipped)


async def _broker_runs(paths: Paths) -> bool:
    try:
        async with open_client(paths) as client:
            await client.call(GET_VERSION, Nothing())
    except SetupError:
        return False  # if one writes the log nevertheless, opening it says so
    return True
