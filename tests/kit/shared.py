"""A stage that the tests of a module share: what is slow to start is started once.

``siege_of_all = Shared(siege)``, and ``@siege_of_all.test`` before each test that takes
the stage as its first argument.  The first of them starts it, the module's end ends it.
It runs in a trio loop of its own, in a thread, because pytest-trio has one for each test.

A test that fails ends the stage, as its own stage would have ended: its exception goes
through the stage's ``async with``, and the next test starts another one.
"""

from __future__ import annotations

import functools
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from tests.kit.bounded import waits_of

_END_SECONDS = 90
"""For a cancelled stage to end its processes."""
_Play = Callable[[Any], Awaitable[None]]


class Shared:
    """A stage of one module; ``start`` gives its context manager."""

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._start = start
        self._running: _Running | None = None

    def test(self, function: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        """Make a test of pytest's from an async function whose first argument is the stage."""
        _stage, *others = inspect.signature(function).parameters.values()
        request = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY)

        @functools.wraps(function)
        def run(*, request: pytest.FixtureRequest, **given: Any) -> None:
            self._play(request, functools.partial(function, **given))

        run.__signature__ = inspect.Signature([*others, request])  # type: ignore[attr-defined]
        return run

    def _play(self, request: pytest.FixtureRequest, play: _Play) -> None:
        if self._running is None:
            module = request.node.getparent(pytest.Module)
            assert module is not None
            self._running = _Running(self._start)
            module.addfinalizer(self._end)
        try:
            self._running.play(play)
        except BaseException:
            self._running = None
            raise

    def _end(self) -> None:
        """End it; an error of its end is one of the module's last test."""
        running, self._running = self._running, None
        if running is not None:
            running.end()


class _Running:
    """The thread with the stage; used from pytest's."""

    def __init__(self, start: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._start = start
        self._asked: queue.SimpleQueue[_Play | None] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._cancel: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="stage", daemon=True)
        self._thread.start()

    def play(self, play: _Play) -> None:
        self._asked.put(play)
        self._wait()

    def end(self) -> None:
        self._asked.put(None)
        self._wait()

    def _wait(self) -> None:
        try:
            said = self._said.get()
        except BaseException:  # pytest-timeout, or Ctrl-C
            self._cancel()
            self._thread.join(_END_SECONDS)
            raise
        if said is not None:
            self._thread.join(_END_SECONDS)
            raise said

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:  # raised in pytest's thread
            self._said.put(_skip_in(error) or error)
        else:
            self._said.put(None)
        finally:
            self._asked.put(None)  # a thread may still wait for the next test

    async def _serve(self) -> None:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            task = trio.lowlevel.current_task()

            def cancel() -> None:
                print("the stage waited at\n" + "".join(waits_of(task)))
                scope.cancel()

            self._cancel = functools.partial(token.run_sync_soon, cancel)
            async with self._start() as stage:
                while (play := await self._next()) is not None:
                    await play(stage)
                    self._said.put(None)

    async def _next(self) -> _Play | None:
        return await trio.to_thread.run_sync(self._asked.get, abandon_on_cancel=True)


def _skip_in(error: BaseException) -> BaseException | None:
    """Return the skip that is alone in groups of exceptions, as pytest-trio does."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    return error if isinstance(error, pytest.skip.Exception) else None
