"""Giving an exchange up at each moment of it.

A cancellation, a deadline or a client that goes away ends an exchange wherever it waits,
and where it does not wait at the next await: so a channel's state is judged after each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class _Cut(trio.abc.Instrument):
    """Cancels at a task's n-th moment: each step of it has one before and one after."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, moment: int):
        self._task, self._scope, self.left = task, scope, moment

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._count(task)

    def _count(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.left -= 1
            if self.left == 0:
                self._scope.cancel()


async def given_up(exchange: Callable[[], Awaitable[object]], moment: int) -> bool:
    """Run an exchange and cancel it at a moment, from 1; False: it had ended before.

    The odd ones are while it waits, the even ones between its wait and what follows.
    What its other tasks do meanwhile is not counted.
    """
    scope = trio.CancelScope()
    cut = _Cut(trio.lowlevel.current_task(), scope, moment)
    trio.lowlevel.add_instrument(cut)
    try:
        with scope:
            await exchange()
    finally:
        trio.lowlevel.remove_instrument(cut)
    return cut.left <= 0
