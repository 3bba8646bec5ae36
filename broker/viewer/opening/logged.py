"""A transfer in the audit log: its begin before anything moves, and its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from broker.authority.audit.event_log import EventLog
from broker.authority.decisions.decision_events import subject
from broker.authority.permit import Permit
from broker.core.errors import VitrailError, sole
from broker.core.escape import printable
from broker.ipc.audit import schema
from broker.viewer.opening.exchanges import OpenExchange


@asynccontextmanager
async def logged_transfer(
    log: EventLog,
    permit: Permit,
    number: int,
    exchange: OpenExchange,
    *,
    files: int,
    content: str,
    size: int | None = None,
    mime: str = "",
) -> AsyncIterator[None]:
    """Record that a transfer begins, and how it ended once the block has.

    ``content``: what the log says of it.
    """
    await log.require(
        schema.TransferBegin(
            **subject(permit.request),
            transfer=number,
            target=permit.target,
            rule=permit.where,
            files=files,
            size=size,
            mime=mime,
            object=content,
        )
    )
    began, reason = trio.current_time(), "cut"
    try:
        yield
        reason = ""
    except (VitrailError, ExceptionGroup) as error:
        reason = str(sole(error))
        raise
    finally:
        with trio.CancelScope(shield=True):
            await log.note(
                schema.TransferEnd(
                    **subject(permit.request),
                    transfer=number,
                    target=permit.target,
                    bytes=exchange.size,
                    files=exchange.files,
                    opened_in=exchange.opened_in,
                    seconds=trio.current_time() - began,
                    outcome="failed" if reason else "done",
                    reason=printable(reason, 2000),
                )
            )
