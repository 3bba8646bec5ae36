"""Retention while a broker runs: automatic removal of old and excess events."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio

from broker.authority.audit.settings import AuditSettings
from broker.authority.audit.store import Store
from broker.core.errors import UpstreamError
from broker.core.stderr_log import log_stderr

_EVERY_SECONDS = 3600.0
_EVERY_EVENTS = 4096
"""Some 4 MiB: a log is never much larger than it may be."""
_PAUSE = 1.0


class Retention:
    """Removes events as ``audit.toml`` configures, and on request."""

    def __init__(
        self,
        store: Store,
        settings: AuditSettings,
        shipped: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._shipped = shipped
        """The last event that every receiver has; None: none exist."""

    async def run(self) -> None:
        """Remove old events every hour, and every few thousand events.

        Until cancelled.
        """
        complained = False
        while True:
            try:
                await self.prune(None, None)
                complained = False
            except UpstreamError as error:
                if not complained:
                    log_stderr(f"vitrail: cannot remove old events: {error}")
                complained = True
            size = self._store.size
            await trio.sleep(_PAUSE)
            with trio.move_on_after(_EVERY_SECONDS):
                await self._store.wait_beyond(size + _EVERY_EVENTS)

    async def prune(self, seconds: int | None, megabytes: int | None) -> int:
        """Remove events older than ``seconds``, and those beyond the size, in MB.

        None for both: as the settings say.  Returns how many events went.
        Raises UpstreamError when the disk refuses.
        """
        if seconds is None and megabytes is None:
            seconds = self._settings.keep_seconds
            megabytes = self._settings.max_megabytes
        before = None if seconds is None else time.time_ns() - seconds * 1_000_000_000
        most = None if megabytes is None else megabytes << 20
        return await self._store.prune(
            before_ns=before, most=most, shipped=self._shipped()
        )
