"""``brokerctl audit ship``: send the log to its receivers, once or continuously."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import rich_click as click
import trio

from broker.cli import render
from broker.cli.run.connect import offline_paths
from broker.cli.transfer.named_path import NamedPath
from broker.core.errors import IntegrityError, SetupError, VitrailError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.helpers.shipper.config import (
    AnyTarget,
    ShipConfig,
    load_config,
)
from broker.helpers.shipper.cursor import Cursor, load_cursor
from broker.helpers.shipper.run import place_of, ship_for_ever, ship_once
from broker.helpers.shipper.state import find_config
from broker.ipc.audit.query import open_log


@click.command("ship")
@click.option(
    "--once",
    "how",
    flag_value="once",
    help="Send the events that are recorded now, then exit.",
)
@click.option(
    "--follow", "how", flag_value="follow", help="Keep running, and send new events."
)
@click.option(
    "--status",
    "how",
    flag_value="status",
    default=True,
    help="Show how many events each receiver has (the default).",
)
@click.option(
    "--target",
    "names",
    multiple=True,
    metavar="NAME",
    help="Ship only to this receiver.",
)
@click.option(
    "--config",
    type=NamedPath(dir_okay=False, path_type=Path),
    help="Read this file instead of ship.toml.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    how: str,
    names: tuple[str, ...],
    config: Path | None,
    as_json: bool,
) -> None:
    """Send the audit log to the receivers in ship.toml.

    A running broker sends the log automatically.

    Exit code: 0 all receivers have all events, 1 a receiver lacks events, 3 the log
    differs from the log that was shipped before.
    """
    paths = offline_paths()
    path = config or find_config(paths.config)
    if path is None:
        raise SetupError(
            "audit shipping is not configured: ship.toml does not exist",
            hint=f"to configure it, write {paths.config[0] / 'ship.toml'}; see docs/audit.md, 'Shipping'",
        )
    found = load_config(path)
    targets = _chosen(found, names)
    if how == "once":
        _once(paths, found, targets, as_json=as_json)
    elif how == "follow":
        trio.run(_follow, paths, found, targets)
    else:
        _status(paths, targets, as_json=as_json)


def _chosen(config: ShipConfig, names: tuple[str, ...]) -> list[AnyTarget]:
    """Return the named receivers, or all.  Raises UsageError."""
    known = [target.name for target in config.target]
    for name in names:
        if name not in known:
            raise click.UsageError(
                f"no receiver is named {name!r}; the receivers are: {', '.join(known) or 'none'}"
            )
    return [target for target in config.target if not names or target.name in names]


def _once(
    paths: Paths, config: ShipConfig, targets: list[AnyTarget], *, as_json: bool
) -> None:
    """Ship once to all receivers, and print the result."""
    answers: dict[str, int | VitrailError] = {}
    trio.run(ship_once, place_of(paths, config), targets, answers.__setitem__)
    errors = {n: a for n, a in answers.items() if isinstance(a, VitrailError)}
    if as_json:
        render.json_line(
            {
                name: {"error": str(answer)}
                if isinstance(answer, VitrailError)
                else {"events": answer}
                for name, answer in answers.items()
            }
        )
    else:
        for name, answer in sorted(answers.items()):
            if isinstance(answer, int):
                render.note(f"{name}: {answer} events")
    for name, error in errors.items():
        render.error(type(error)(f"{name}: {error}", hint=error.hint))
    if errors:
        changed = any(isinstance(e, IntegrityError) for e in errors.values())
        sys.exit(3 if changed else 1)


async def _follow(paths: Paths, config: ShipConfig, targets: list[AnyTarget]) -> None:
    """Ship continuously until a signal."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    if stop.is_set():  # a second Ctrl-C does not wait for a receiver
                        nursery.cancel_scope.cancel()
                    stop.set()

        nursery.start_soon(watch)
        await ship_for_ever(place_of(paths, config), targets, stop)
        nursery.cancel_scope.cancel()


def _status(paths: Paths, targets: list[AnyTarget], *, as_json: bool) -> None:
    """Print how far each receiver is."""
    newest = 0
    if paths.audit.exists():
        with open_log(paths.audit) as log:
            newest = log.newest()
    cursors = [load_cursor(paths.shipping, target.name) for target in targets]
    if as_json:
        render.json_line(
            {
                "newest": newest,
                "targets": [
                    _object(target, cursor, newest)
                    for target, cursor in zip(targets, cursors, strict=True)
                ],
            }
        )
    else:
        render.table(
            ("NAME", "WHERE", "HAS", "BEHIND", "DELIVERED", "PROBLEM"),
            [
                _row(target, cursor, newest)
                for target, cursor in zip(targets, cursors, strict=True)
            ],
        )
    if any(cursor.sequence < newest for cursor in cursors):
        sys.exit(1)


def _object(target: AnyTarget, cursor: Cursor, newest: int) -> dict[str, object]:
    return {
        "name": target.name,
        "where": target.where(),
        "sequence": cursor.sequence,
        "behind": max(newest - cursor.sequence, 0),
        "missing": cursor.missing,
        "delivered": cursor.shipped,
        "problem": cursor.problem,
    }


def _row(target: AnyTarget, cursor: Cursor, newest: int) -> tuple[str, ...]:
    ago = (
        f"{render.seconds(time.time() - cursor.shipped)} ago" if cursor.shipped else "-"
    )
    return (
        target.name,
        printable(target.where(), 60),
        str(cursor.sequence),
        str(max(newest - cursor.sequence, 0)),
        ago,
        printable(cursor.problem, 200) or "-",
    )
