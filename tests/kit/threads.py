"""A machine that starts no thread: a sandbox has all processes that its user may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

MESSAGE = "can't start new thread"
"""Python's words; ``tests/broker/ipc/test_in_thread.py`` has them from the kernel."""


@contextmanager
def no_threads() -> Iterator[None]:
    """Let trio start no thread inside the block, and use none that waits for work."""

    def refuse(*_words: object) -> None:
        raise RuntimeError(MESSAGE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio._threads, "start_thread_soon", refuse)
        yield
