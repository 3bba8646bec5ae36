"""An end for an async test that hangs, after which the next ones can still run.

pytest-timeout raises in the middle of trio's own code: what the test had started
stays, and every later test fails with "Attempted to call run() from inside a run()".
So the test is cancelled first, and the wait of each of its tasks is reported.
"""

from __future__ import annotations

import gc
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

_TRIO = str(Path(trio.__file__).parent)


class HangError(AssertionError):
    """A test that took longer than any machine needs for it."""


def bounded(seconds: float) -> Callable[..., Any]:
    """``trio.run`` for a test that may take so long: ``pytest.mark.trio(run=…)``."""

    def run(function: Callable[..., Awaitable[Any]], *args: Any, **how: Any) -> Any:
        if how.get("clock") is not None:
            return trio.run(function, *args, **how)  # its seconds are not ours
        return trio.run(_watched, seconds, function, args, **how)

    return run


async def _watched(
    seconds: float, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> Any:
    waited_for: list[str] = []
    with trio.CancelScope() as scope:
        watched = trio.lowlevel.current_task()

        async def watch() -> None:
            await trio.sleep(seconds)
            waited_for.extend(waits_of(watched))
            scope.cancel()

        trio.lowlevel.spawn_system_task(watch)
        try:
            return await function(*args)
        except Exception as error:
            if waited_for:
                raise _hang(seconds, waited_for) from error
            raise
    raise _hang(seconds, waited_for)


def _hang(seconds: float, waited_for: list[str]) -> HangError:
    return HangError(
        f"it has not ended within {seconds:.0f} s; it waited at\n" + "".join(waited_for)
    )


def waits_of(task: trio.lowlevel.Task, depth: int = 0) -> Iterator[str]:
    """Each task of a test and its place, the last calls of each."""
    indent = "  " * depth
    yield f"{indent}{task.name}\n"
    stack = traceback.StackSummary.extract(task.iter_await_frames())
    ours = [line for line in stack if not line.filename.startswith(_TRIO)]
    for line in traceback.format_list(ours)[-4:]:
        yield "".join(f"{indent}{part}\n" for part in line.splitlines())
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from waits_of(child, depth + 1)


def drop_abandoned_run(failed: TracebackType | None = None) -> None:
    """Release the objects of a test that was ended in the middle of trio's code.

    Its traceback holds them all; they are closed now, not in another test.
    """
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        if hasattr(sys, name):
            delattr(sys, name)
    with warnings.catch_warnings(), _unraised():
        warnings.simplefilter("ignore")
        if failed is not None:
            traceback.clear_frames(failed)
            for frame, _line in traceback.walk_tb(failed):
                # pytest has looked at these, and its result is kept until the
                # next look (PEP 667 ends that in Python 3.13).
                assert frame.f_locals is not None
        gc.collect()


@contextmanager
def _unraised() -> Iterator[None]:
    """Say nothing of what trio's objects say when they are ended from outside."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda _said: None
    try:
        yield
    finally:
        sys.unraisablehook = before
