"""Workers and pumps whose fork servers the test's own process starts."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from broker.helpers.process.fork_client import ForkServerHandle
from broker.helpers.process.fork_start import start_server
from broker.viewer.workers import pool


def open_workers(
    keepers: ForkServerHandle | None = None, *, allow_unjailed: bool = False
) -> AbstractAsyncContextManager[pool.Workers]:
    """Own workers for the length of the block, as a viewer does."""
    return pool.open_workers(keepers, start_server, allow_unjailed=allow_unjailed)
