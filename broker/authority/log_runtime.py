"""The runtime of the process that records: event log, records, sealing, retention.

``open_log_runtime`` starts it and, when its block is done, closes the log.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio

from broker import __version__
from broker.authority.audit.journal import Journal
from broker.authority.audit.refusals import Refusals
from broker.authority.audit.retention_service import Retention
from broker.authority.audit.sealing import JournalTeller, Sealing
from broker.authority.audit.settings import AuditMode, AuditSettings, load_settings
from broker.authority.audit.shipping import Shipping
from broker.authority.audit.store import Store, open_store
from broker.authority.control.server import refuse_second
from broker.authority.helper_starter import HelperStarter
from broker.authority.options import Options
from broker.authority.records.sandboxes import Records
from broker.core.authority_report import AuthorityReport, PolicyStatus
from broker.core.errors import UpstreamError
from broker.core.paths import Paths, require_private
from broker.core.stderr_log import log_stderr
from broker.ipc.audit import schema


@dataclass(frozen=True)
class LogRuntime:
    """Open, for as long as its ``async with`` block."""

    store: Store
    journal: Journal
    records: Records
    sealing: Sealing
    retention: Retention
    shipping: Shipping
    starter: HelperStarter

    def report(
        self, pid: int, prompt: int, policy: PolicyStatus, waiting: list[str]
    ) -> AuthorityReport:
        """Return the authority's part of ``brokerctl status``."""
        warnings = [*self.journal.warnings(), *self.shipping.warnings()]
        return AuthorityReport(
            audit=self.store.statistics(),
            shipper=self.shipping.pid or 0,
            warnings=[*warnings, *waiting],
            log_warnings=warnings,
            pid=pid,
            prompt=prompt,
            policy=policy,
        )


@asynccontextmanager
async def open_log_runtime(
    role: str, options: Options, pid: int
) -> AsyncIterator[LogRuntime]:
    """Open the log and its tasks; ``pid``: of the broker, for the event of its start.

    Raises SetupError and UpstreamError when the broker cannot start.
    """
    paths = options.paths
    for directory in (paths.runtime, paths.sandbox("x").parent):
        # guard: a foreign directory keeps its mode
        require_private(paths)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    require_private(paths)
    # First of all: "a broker runs already" is what a user can use; the log's
    # "another broker writes here" would come before it otherwise.
    if "control" not in options.sockets:
        refuse_second(paths.control)
    async with AsyncExitStack() as stack:
        settings = load_settings(paths.config)
        store = await _open_log(stack, paths, role, settings)
        async with trio.open_nursery() as nursery:
            refusals = Refusals(store)
            nursery.start_soon(refusals.run)
            log = Journal(store, refusals, mode=settings.mode)
            await log.require(schema.BrokerStart(software=__version__, pid=pid))
            starter = HelperStarter(options.starter)
            shipping = Shipping(paths, log, starter)
            nursery.start_soon(shipping.run)
            records = Records(paths, options.shipped, log)
            await records.record()
            sealing = Sealing(store, settings)
            if settings.journald:
                sealing.listeners.append(JournalTeller(paths.audit).tell)
            nursery.start_soon(sealing.run)
            retention = Retention(store, settings, shipping.shipped)
            nursery.start_soon(retention.run)
            yield LogRuntime(store, log, records, sealing, retention, shipping, starter)
            await log.note(schema.BrokerStop(reason="asked to end"))
            await sealing.last()
            nursery.cancel_scope.cancel()


async def _open_log(
    stack: AsyncExitStack, paths: Paths, role: str, settings: AuditSettings
) -> Store:
    """Open the audit log; where it need not be, one in memory replaces it."""
    try:
        return await stack.enter_async_context(
            open_store(paths.audit, broker=role, settings=settings)
        )
    except UpstreamError as error:
        if settings.mode is AuditMode.REQUIRED:
            raise
        log_stderr(
            f"vitrail: {error}; audit.toml says 'best-effort', so this broker's events are lost when the machine is switched off"
        )
        store = await stack.enter_async_context(
            open_store(paths.runtime / paths.audit.name, broker=role, settings=settings)
        )
        await store.record(
            schema.LogGap(count=0, seconds=0.0, reason=f"kept only in memory: {error}")
        )
        return store
