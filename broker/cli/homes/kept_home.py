"""The home of a persistent box or container, while a sandbox uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.cli.homes.home_in_use import IN_USE
from broker.cli.texts import tr
from broker.core.errors import RefusedError
from broker.core.names import SandboxName
from broker.core.paths import Paths
from broker.host.homes.renaming import recover
from broker.host.homes.store import HomeStore
from broker.host.homes.tree import ready_tree


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

    Raises RefusedError when it is in use.
    """
    if sandbox_class == "disposable":
        yield None
        return
    store, name = HomeStore(paths.homes), SandboxName(record)
    recover(store)
    try:
        held = store.lock(name)
    except RefusedError as error:
        raise RefusedError(
            tr(IN_USE, message=error.message),
            hint=error.hint,
        ) from error
    try:
        yield KeptHome(ready_tree(store, name).tree, held.fd)
    finally:
        held.release()
