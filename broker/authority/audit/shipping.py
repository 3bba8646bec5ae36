"""The broker's shipper, kept running: it dies alone, and is replaced."""

from __future__ import annotations

from contextlib import suppress

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.helper_starter import Helper, HelperStarter
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.paths import Paths
from broker.core.stderr_log import isolated, log_stderr
from broker.helpers.shipper.state import find_config, shipping_warnings, unshipped
from broker.ipc.audit import schema
from broker.ipc.starter import HelperProgram

_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_LOOK_SECONDS = 2.0
"""Between two looks for a ``ship.toml`` if none exists."""


class Shipping:
    """Runs ``broker.programs.shipper`` where there is something to ship to."""

    def __init__(self, paths: Paths, log: EventLog, starter: HelperStarter) -> None:
        self._paths = paths
        self._log = log
        self._starter = starter
        self._child: Helper | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._child is None else self._child.pid

    def warnings(self) -> list[str]:
        """Return the faults of shipping, for ``brokerctl status``."""
        found = [
            "the audit log is not shipped: an internal error; see the broker's log"
        ]
        # guard: no file of a shipper ends the status
        with isolated():
            found = shipping_warnings(self._paths)
        return found

    def shipped(self) -> int | None:
        """Return the last event that every receiver has; None: there are no receivers.

        A state that cannot be read counts as nothing shipped, so no event is removed.
        """
        if find_config(self._paths.config) is None:
            return None
        sequence: int | None = 0
        # guard: no file of a shipper ends the authority
        with isolated(), suppress(SetupError, UpstreamError):
            waiting = unshipped(self._paths)
            sequence = None if waiting is None else waiting.sequence
        return sequence

    async def run(self) -> None:
        """Start the shipper, and again whenever it ends, until cancelled.

        Starts nothing while there is no ``ship.toml``.  Each end of a shipper is
        recorded in the audit log.
        """
        pause = _PAUSE
        while True:
            while find_config(self._paths.config) is None:  # noqa: ASYNC110 -- a file
                await trio.sleep(_LOOK_SECONDS)
            began = trio.current_time()
            await self._once()
            if trio.current_time() - began > _LONGEST_PAUSE:
                pause = _PAUSE
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _once(self) -> None:
        """Start the shipper and wait for its end; log why it ended."""
        try:
            child = await self._starter.start(HelperProgram.SHIPPER)
        except VitrailError as error:
            log_stderr(f"vitrail: cannot ship the audit log: {error}")
            return
        self._child = child
        try:
            code = await child.wait()
        finally:
            self._child = None
            if child.code is None:
                await child.stop()
        await self._log.note(
            schema.ProcessDied(
                process=schema.Process.SHIPPER,
                pid=child.pid,
                code=code,
                reason="the log is kept; shipping resumes where it stopped",
            )
        )
