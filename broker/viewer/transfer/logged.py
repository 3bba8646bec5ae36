"""A transfer in the audit log: its begin before anything moves, and its end."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from broker.authority.audit.event_log import EventLog, StreamSubject
from broker.authority.decisions.decision_events import subject
from broker.authority.permit import Permit
from broker.core.errors import VitrailError, sole
from broker.core.escape import printable
from broker.ipc.audit import schema
from broker.viewer.exchange.guest_connection import TransferCount


@enum.unique
class FirstTransfer(enum.Enum):
    """Where numbers of transfers in the log begin, apart from those of sandboxes."""

    USER = 1 << 32
    DIALOG = 1 << 33
    PRINT = 1 << 34
    DROP = 1 << 35


_OF_BOTH = (*StreamSubject.__annotations__, "transfer", "target")
"""Fields of both events."""


@asynccontextmanager
async def logged_transfer(
    log: EventLog,
    permit: Permit,
    number: int,
    moved: TransferCount,
    *,
    files: int,
    content: str,
    size: int | None = None,
    mime: str = "",
) -> AsyncIterator[None]:
    """Record that a transfer begins, and how it ended once the block has.

    ``content``: what the log says of it.
    """
    begin = schema.TransferBegin(
        **subject(permit.request),
        transfer=number,
        target=permit.target,
        rule=permit.where,
        files=files,
        size=size,
        mime=mime,
        object=content,
    )
    async with begun_transfer(log, begin, moved):
        yield


@asynccontextmanager
async def begun_transfer(
    log: EventLog, begin: schema.TransferBegin, moved: TransferCount
) -> AsyncIterator[None]:
    """Record a transfer's begin and its end; ``moved`` counts what has passed."""
    await log.require(begin)
    began, reason = trio.current_time(), "cut"
    try:
        yield
        reason = ""
    except (VitrailError, ExceptionGroup) as error:
        reason = str(sole(error))
        raise
    finally:
        end = schema.TransferEnd(
            **{name: getattr(begin, name) for name in _OF_BOTH},
            bytes=moved.size,
            files=moved.files,
            opened_in=moved.opened_in,
            seconds=trio.current_time() - began,
            outcome="failed" if reason else "done",
            reason=printable(reason, 2000),
        )
        with trio.CancelScope(shield=True):
            await log.note(end)
