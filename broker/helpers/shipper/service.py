"""The shipper's work: ship as ``ship.toml`` says, and follow its changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import trio

from broker.core.errors import SetupError
from broker.core.limits import audit as audit_limits
from broker.core.paths import Paths
from broker.helpers.shipper.config import ShipConfig, load_config
from broker.helpers.shipper.run import ShipperPaths, ship_for_ever
from broker.helpers.shipper.state import find_config, note_problem

_Stamp: TypeAlias = tuple[object, ...]
"""Which file it is, and its last change."""


def place_of(paths: Paths, config: ShipConfig) -> ShipperPaths:
    """This user's log."""
    return ShipperPaths(
        paths.audit, paths.shipping, config.called(), config.batch_seconds
    )


async def serve(paths: Paths, stop: trio.Event) -> None:
    """Ship as ``ship.toml`` says, and as it says from then on when it changes.

    A file that cannot be used is a SetupError at the start; later the last
    good one stays in force.
    """
    stamp = _stamp(paths.config)
    config = load(paths)
    while not stop.is_set():
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            place = place_of(paths, config)
            nursery.start_soon(ship_for_ever, place, config.target, over)
            stamp, config = await _next(paths, stop, stamp, config)
            over.set()


async def _next(
    paths: Paths, stop: trio.Event, stamp: _Stamp, config: ShipConfig
) -> tuple[_Stamp, ShipConfig]:
    """Wait for another file that can be used, or for ``stop``."""
    while not stop.is_set():
        with trio.move_on_after(4 * audit_limits.SHIP_LOOK_SECONDS):
            await stop.wait()
        fresh = _stamp(paths.config)
        if fresh != stamp:
            stamp = fresh
            try:
                return stamp, load(paths)
            except SetupError:
                continue  # 'brokerctl status' warns of it
    return stamp, config


def load(paths: Paths) -> ShipConfig:
    """Return the configuration.  Raises SetupError, which the status shows, too."""
    path = find_config(paths.config)
    try:
        config = ShipConfig() if path is None else load_config(path)
    except SetupError as error:
        note_problem(paths, str(error))
        raise
    note_problem(paths, "")
    return config


def _stamp(directories: Sequence[Path]) -> _Stamp:
    path = find_config(directories)
    if path is None:
        return ()
    try:
        found = path.stat()
    except OSError:
        return ()
    return (path, found.st_ino, found.st_mtime_ns, found.st_mode)
