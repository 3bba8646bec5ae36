"""Wait for what sends no event: ask again until it is true."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio

from broker.helpers.process.spawn import Child, has_ended

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds: for a condition that never becomes true, not for a slow machine."""

_RARELY = 0.5
"""Seconds between two questions at most."""


class NeverError(AssertionError):
    """The condition that a test waited for did not become true in time."""


async def eventually(
    condition: Callable[[], T | Awaitable[T]],
    *,
    deadline: float = PATIENCE,
    every: float = 0.05,
) -> T:
    """Ask every so many seconds until the answer is true, and return that answer.

    It asks ever less often: a wait for a machine's start is at most a twentieth
    longer, and takes no processor time from that start.
    The condition may be a coroutine function.  Raises NeverError, with the last
    answer, after ``deadline`` seconds.  Where there is an event, await that
    instead: this is for other processes and for files.
    """
    answer: T | None = None
    began = trio.current_time()
    with trio.move_on_after(deadline):
        while True:
            asked = condition()
            answer = await asked if inspect.isawaitable(asked) else asked
            if answer:
                return answer
            longer = (trio.current_time() - began) / 20
            await trio.sleep(max(every, min(longer, _RARELY)))
    name = getattr(condition, "__qualname__", repr(condition))
    raise NeverError(f"not within {deadline:g} s: {name}; the last answer: {answer!r}")


async def ready(
    child: Child,
    condition: Callable[[], T | Awaitable[T]],
    *,
    deadline: float = PATIENCE,
    output: Path | None = None,
) -> T:
    """Wait ``eventually`` for a server that was just started.

    Fails as soon as the server ends, with the end of its ``output``.
    """

    async def look() -> T:
        ended = has_ended(child.pidfd)
        asked = condition()
        answer = await asked if inspect.isawaitable(asked) else asked
        if ended and not answer:
            text = "" if output is None else output.read_text(errors="replace")
            raise AssertionError(f"{child.name} has ended: {text[-2000:]}")
        return answer

    return await eventually(look, deadline=deadline)
