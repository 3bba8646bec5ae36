"""What the broker and ``brokerctl`` need to know of shipping, without doing it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import trio

from broker.audit.query import open_log
from broker.audit.ship.config import ShipConfig, find_config, load_config
from broker.audit.ship.cursor import Cursor, held_back, load_cursor
from broker.audit.ship.run import Place, ship_for_ever
from broker.core import limits
from broker.core.errors import SetupError, UpstreamError
from broker.core.paths import Paths

_LATE_SECONDS = 600.0
"""A receiver that has had a problem for so long is a warning."""


def place_of(paths: Paths, config: ShipConfig) -> Place:
    """This user's log."""
    return Place(paths.audit, paths.shipping, config.called())


def unshipped(paths: Paths) -> Cursor | None:
    """The receiver that is farthest behind; None when there is none.

    For retention: events after its ``sequence`` are still to be delivered.
    Raises SetupError when the configuration or a cursor cannot be read, as
    nothing should be removed then.
    """
    path = find_config(paths.config)
    if path is None:
        return None
    names = [target.name for target in load_config(path).target]
    return held_back(paths.shipping, names, _identity(paths))


def _identity(paths: Paths) -> str:
    """Which log it is, "" when there is none yet."""
    if not paths.audit.exists():
        return ""
    with open_log(paths.audit) as log:
        return log.identity()


def warnings(paths: Paths) -> list[str]:
    """What ``brokerctl status`` should warn of."""
    path = find_config(paths.config)
    if path is None:
        return []
    try:
        config = load_config(path)
        cursors = [load_cursor(paths.shipping, t.name) for t in config.target]
    except (SetupError, UpstreamError) as error:
        return [f"the audit log is not shipped: {error}"]
    now = time.time()
    return [
        f"the audit log is not shipped to '{c.name}': {c.problem}"
        for c in cursors
        if c.problem and now - c.since > _LATE_SECONDS
    ]


async def serve(paths: Paths, stop: trio.Event) -> None:
    """Ship as ``ship.toml`` says, and as it says from then on when it changes.

    A file that cannot be used is a SetupError at the start; later the last
    good one stays in force.
    """
    stamp = _stamp(paths.config)
    config = _load(paths)
    while not stop.is_set():
        changed = trio.Event()
        async with trio.open_nursery() as nursery:
            place = place_of(paths, config)
            nursery.start_soon(ship_for_ever, place, config.target, changed)
            while not stop.is_set():
                with trio.move_on_after(4 * limits.SHIP_LOOK_SECONDS):
                    await stop.wait()
                fresh = _stamp(paths.config)
                if fresh != stamp:
                    stamp = fresh
                    try:
                        config = _load(paths)
                    except SetupError:
                        continue  # 'brokerctl status' warns of it
                    break
            changed.set()


def _load(paths: Paths) -> ShipConfig:
    path = find_config(paths.config)
    return ShipConfig() if path is None else load_config(path)


def _stamp(directories: Sequence[Path]) -> tuple[object, ...]:
    path = find_config(directories)
    if path is None:
        return ()
    try:
        found = path.stat()
    except OSError:
        return ()
    return (path, found.st_ino, found.st_mtime_ns, found.st_mode)
