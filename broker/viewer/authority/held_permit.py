"""A permit that is held for what a sandbox was given: a device, a folder.

The authority ends a permit when its rule, grant or lease ends; the user may end it at
any time.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

import trio

from broker.authority.permit import Asked, Permit, Request
from broker.core.errors import RefusedError, VitrailError, sole
from broker.core.lease import Lease
from broker.core.names import LeaseId
from broker.core.stderr_log import log_exception
from broker.ipc.host_viewer import HeldTask, StartedStatus
from broker.viewer.authority.interface import Permits


@dataclass(eq=False)
class HeldPermit(HeldTask):
    """A thing that a sandbox has by a permit, or is about to have."""

    lease: Lease
    since: float = field(default_factory=time.time, kw_only=True)

    async def hold(
        self,
        permits: Permits,
        request: Request,
        carry: Callable[[Permit, trio.TaskStatus[Self]], Awaitable[None]],
        status: trio.TaskStatus[Self],
        *,
        chosen: Asked | None = None,
    ) -> None:
        """Run ``carry`` inside a permit, until one of them ends or it is taken back.

        ``carry`` calls ``started`` once the sandbox has the thing, and waits for its
        end.  Raises VitrailError before that; later errors are only the reason.
        """
        given = StartedStatus(status)
        try:
            with self.scope:
                async with permits.permit(request, chosen=chosen) as permit:
                    await carry(permit, given)
        except VitrailError as error:
            if not given.called:
                raise
            self.reason = self.reason or str(error)
        # guard: an internal error about one device ends no other
        except Exception as error:
            if not given.called:
                raise
            # A nursery that is cancelled as the reason comes up has it in a group.
            if isinstance(reason := sole(error), VitrailError):
                self.reason = self.reason or str(reason)
            else:
                log_exception(error)
        finally:
            self.over.set()
        if not given.called:
            raise RefusedError(self.reason or "the request was cancelled")


async def take_back_all(held: Iterable[HeldPermit], lease: LeaseId) -> None:
    """Take back all that a stopped sandbox has."""
    mine = [one for one in held if one.lease.id == lease]
    for one in mine:
        one.end("the sandbox stopped")
    for one in mine:
        await one.over.wait()
