"""The home of a persistent box or container, while a sandbox uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.cli.homes.home_in_use import IN_USE
from broker.core.errors import RefusedError
from broker.core.names import SandboxName
from broker.core.paths import Paths
from broker.host.homes.renaming import recover
from broker.host.homes.store import HomeStore
from broker.host.homes.tree import ready_tree
from policy.records.folder import FOLDER


@dataclass(frozen=True)
class KeptHome:
    """The home of a persistent record while a sandbox uses it."""

    tree: Path
    lock: int
    """Descriptor of its lock; a process that inherits it keeps the home in use."""


@contextmanager
def kept_home(
    paths: Paths, record: str, sandbox_class: str
) -> Iterator[KeptHome | None]:
    """Yield the home of a persistent record, locked; None for others.

    At the end the lock is given up, also for processes that have inherited it.

    Raises RefusedError when it is in use, or the record is that of a run.
    """
    if sandbox_class == "disposable":
        yield None
        return
    if (paths.runtime / FOLDER / f"{record}.toml").exists():
        # The record ends with its run, so nothing could use the home afterwards.
        raise RefusedError(
            f"cannot start '{record}': it is already running",
            hint="to start another program without a record, run 'brokerctl run "
            "--bwrap -- PROGRAM'",
        )
    store, name = HomeStore(paths.homes), SandboxName(record)
    recover(store)
    try:
        held = store.lock(name)
    except RefusedError as error:
        raise RefusedError(
            IN_USE.format(message=error.message),
            hint=error.hint,
        ) from error
    try:
        yield KeptHome(ready_tree(store, name).tree, held.fd)
    finally:
        held.release()
