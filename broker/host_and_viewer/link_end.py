"""The part that both ends of the link share: store, state, log and witness.

The host dials and the viewer listens, so how an epoch comes about is in
``host/viewer_link.py`` and ``viewer/host_link.py``.  Here are the state that each
keeps, the events that each writes, and the calls that each serves.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from broker.authority.audit import event_log
from broker.core.escape import printable
from broker.host_and_viewer.checkpoints import CheckpointWitness
from broker.ipc.audit import schema
from broker.net.link.link_rows import (
    STATUS,
    WITNESS,
    StatusReply,
    Witnessed,
    WitnessNote,
)
from broker.net.link.wire_types import Role
from broker.net.link_service.config import LinkConfig
from broker.net.link_service.epoch import Epoch
from broker.net.link_service.key_store import LinkStore
from broker.net.link_service.link_status import LinkState, own_status
from broker.wire.exchange import ServedCall
from broker.wire.row import Empty, serves


@dataclass(frozen=True)
class CommonCalls:
    """Serves the calls that both ends of the link serve, in one epoch."""

    epoch: Epoch
    witness: CheckpointWitness
    since: float
    """When this broker began (seconds since 1970)."""
    warnings: Callable[[], Awaitable[list[str]]]

    @serves(WITNESS)
    async def keep_checkpoint(
        self, _: ServedCall[Any], request: WitnessNote
    ) -> Witnessed:
        """Keep a checkpoint of the other end's log.  Raises RefusedError."""
        return await self.witness.take(self.epoch, request)

    @serves(STATUS)
    async def report_status(self, _: ServedCall[Any], __: Empty) -> StatusReply:
        """Return this end's state, for the other end's status."""
        return own_status(self.epoch, self.since, await self.warnings())


class LinkEnd:
    """One end of the link; each role derives its from it."""

    def __init__(
        self,
        config: LinkConfig,
        store: LinkStore,
        role: Role,
        *,
        log: event_log.EventLog,
        reload: Callable[[], Awaitable[None]],
        warnings: Callable[[], Awaitable[list[str]]],
        witness: CheckpointWitness,
    ) -> None:
        self._config = config
        self._store = store
        self._log = log
        self._reload = reload
        self._warnings = warnings
        self._witness = witness
        self._since = time.time()
        self.state = LinkState(role, str(config.endpoint))

    def _common_calls(self, epoch: Epoch) -> CommonCalls:
        return CommonCalls(epoch, self._witness, self._since, self._warnings)

    async def _note_up(self, epoch: Epoch, peer: str) -> None:
        """Record the start of an epoch; close its connection if that fails."""
        try:
            await self._log.require(
                schema.LinkUp(name=epoch.name, epoch=epoch.digits, peer=peer)
            )
        except BaseException:
            # guard: an epoch that is not recorded is closed
            epoch.discard()
            raise

    async def _note_down(self, epoch: Epoch, reason: str, began: float) -> None:
        """Record the end of an epoch that ``began`` then (seconds, trio's clock)."""
        self.state.note_loss(epoch.ended_programs, reason)
        await self._log.note(
            schema.LinkDown(
                name=epoch.name,
                epoch=epoch.digits,
                reason=printable(reason),
                seconds=trio.current_time() - began,
            )
        )

    async def _refused(self, peer: str, reason: str) -> None:
        """Count and record a connection that proved nothing."""
        self.state.refused += 1
        if self.state.epoch is not None:
            self.state.epoch.refused += 1
        await self._log.refused(
            schema.LinkRefused(
                peer=peer,
                outcome="refused",
                reason=printable(reason),
            )
        )
