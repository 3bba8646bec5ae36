"""Work in a thread, with our error where the kernel starts no further one.

A sandbox whose processes have the user's id can take all processes and threads that
this user may have (``ulimit -u``, ``pids.max`` of a cgroup).

Each process with trio and files to wait for runs it: authority, host, viewer, shipper,
``vitrail-devices``, brokerctl.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

from broker.core.errors import UpstreamError

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


class NoThreadError(UpstreamError):
    """No thread can be started; the work has not begun."""


async def in_thread(
    work: Callable[[*_Arguments], _Result],
    *arguments: *_Arguments,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> _Result:
    """Call ``trio.to_thread.run_sync``.  Raises NoThreadError, and as ``work`` does."""
    try:
        return await trio.to_thread.run_sync(  # noqa: TID251 -- the one call
            work, *arguments, abandon_on_cancel=abandon_on_cancel, limiter=limiter
        )
    # guard: no room for a thread ends one request
    except RuntimeError as error:
        # Python has no class for it, and ``work`` may raise RuntimeError, too.
        # guard: an error of the work is not taken for a missing thread
        if str(error) != "can't start new thread":
            raise
        hint = "stop a sandbox, or raise the limit on processes (ulimit -u)"
        raise NoThreadError("cannot start a thread", hint=hint) from error
