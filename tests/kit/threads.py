"""Threads that cannot be started, and work that must be done in one."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pkgutil import resolve_name
from typing import Any

import pytest
import trio

MESSAGE = "can't start new thread"
"""Python's words; ``tests/broker/ipc/test_in_thread.py`` has them from the kernel."""


@contextmanager
def no_threads() -> Iterator[None]:
    """Let trio start no thread inside the block, and use none that waits for work.

    A sandbox has all processes that its user may have.
    """

    def refuse(*_words: object) -> None:
        raise RuntimeError(MESSAGE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio._threads, "start_thread_soon", refuse)
        yield


@contextmanager
def other_task_runs(
    patch: pytest.MonkeyPatch, place: str
) -> Iterator[Callable[[], Awaitable[None]]]:
    """Have the function at ``place`` wait until the yielded one has run as a task."""
    ran, called = threading.Event(), threading.Event()
    module, name = place.rsplit(".", 1)
    work = getattr(resolve_name(module), name)

    def slow(*words: Any, **named: Any) -> object:
        called.set()
        assert ran.wait(10), "all tasks wait for it"
        return work(*words, **named)

    async def run() -> None:
        while not called.is_set():
            await trio.sleep(0.01)
        ran.set()

    patch.setattr(place, slow)
    yield run
    assert called.is_set()
