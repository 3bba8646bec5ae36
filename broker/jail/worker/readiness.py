"""Sockets that are read often: without a task's turn for each time.

A stream of sound at 20 ms wakes its filter four hundred times a second, mostly
for some bytes that are passed on as they are.  Under trio each of them costs a turn of
its loop: a task that is made runnable, the arming of the descriptor, deadlines
looked at.  Here a socket has a plain function instead, a *step*, that is called
each time there is something to read, and the task that waits has its turn only
when the step says that there is something for it.

The steps are called where trio would sleep (``Instrument.before_io_wait``):
instead of it, we wait for our sockets and for trio's own epoll descriptor at
once, no longer than trio would, and go back to it as soon as it has anything to
do.  So tasks, deadlines, signals and cancellation are served as ever.

A sandbox's clients share the processor by time.  The steps of urgent sockets, those of
the compositor, come first; then those of clients, the one first that waited longest,
and when they have taken some milliseconds together the others wait until urgent
sockets and trio's tasks had their turn.  A client whose work is longer than its turn
leaves the rest to its task, which waits for ``turn``: one such task after the other,
with a look at all sockets in between.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from enum import Enum
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, Self

import trio
from trio._core import _run
from typing_extensions import override

from broker.core.limits import wayland as limits


class ReadyTasks(Enum):
    """The tasks that may have work after a step."""

    NONE = 0
    PERHAPS = 1
    """Perhaps some task: the step may have set events."""
    MINE = 2
    """The task that waits for this socket; the step is not called again before."""


Step = Callable[[], ReadyTasks]
"""Reads once.  It is called outside of any task, so it may set events, start tasks
in a nursery that is open and ask for the time, and cannot wait."""

_TOGETHER_SECONDS = limits.WAYLAND_TURN_SECONDS
"""Steps of clients that are taken without a look at urgent sockets."""

_NEAR_SECONDS = 0.002
"""A deadline is due when it is not farther away: epoll counts milliseconds."""


class _File(Protocol):
    def fileno(self) -> int: ...


class WatchedFile:
    """One socket or dma-buf and its step; ``close`` comes before the file is closed.

    ``urgent`` for one whose far end we trust: it does not wait for those of clients.
    ``served`` is the number of its last step.

    The kernel would keep reporting a description that another process holds
    open, too, and there would be no way to stop it.
    """

    def __init__(self, sock: _File, step: Step, *, urgent: bool = False) -> None:
        self.fd = sock.fileno()
        self.step = step
        self.urgent = urgent
        self.served = 0
        self.registered = False
        self._task = trio.lowlevel.current_task()
        self._error: BaseException | None = None
        self._steps = _steps_of_this_run()
        self._steps.add(self)

    async def left(self) -> None:
        """Wait until a step has left something for this task to do."""
        self._task = trio.lowlevel.current_task()
        self._steps.arm(self)

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._steps.rest(self)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if self._error is not None:
            raise self._error

    def leave(self, error: BaseException | None = None) -> None:
        """Give the task its turn."""
        self._error = error
        self._steps.rest(self)
        trio.lowlevel.reschedule(self._task)

    def close(self) -> None:
        """Watch it no longer."""
        self._steps.remove(self)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Stop watching the file."""
        self.close()


class _Steps(trio.abc.Instrument):
    """All watches of one run of trio."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, WatchedFile] = {}
        self._live: dict[int, Step] = {}
        """Steps of the sockets whose task waits."""
        self._taken = 0
        """Steps of clients so far."""
        self.turn = trio.Lock()
        self._token = trio.lowlevel.current_trio_token()
        # trio has no name for it; a later trio without this field fails here, at once.
        manager: Any = _run.GLOBAL_RUN_CONTEXT.runner.io_manager
        self._trio = manager._epoll.fileno()  # noqa: SLF001 -- as above
        self._epoll.register(self._trio, select.EPOLLIN)

    def add(self, watch: WatchedFile) -> None:
        assert watch.fd not in self._watches
        if not self._watches:
            trio.lowlevel.add_instrument(self)
        self._watches[watch.fd] = watch

    def remove(self, watch: WatchedFile) -> None:
        """Remove a watched file; no read after that."""
        if self._watches.get(watch.fd) is not watch:
            return
        self.rest(watch)
        # guard: no read after a close
        self._unregister(watch)
        del self._watches[watch.fd]
        if not self._watches:
            trio.lowlevel.remove_instrument(self)

    def arm(self, watch: WatchedFile) -> None:
        assert self._watches.get(watch.fd) is watch, "the watch was closed"
        assert watch.fd not in self._live, "another task is already waiting"
        self._live[watch.fd] = watch.step
        if not watch.registered:
            self._epoll.register(watch.fd, select.EPOLLIN)
            watch.registered = True

    def rest(self, watch: WatchedFile) -> None:
        # It stays registered: mostly its task waits again before more comes.
        self._live.pop(watch.fd, None)

    def _unregister(self, watch: WatchedFile) -> None:
        if watch.registered:
            self._epoll.unregister(watch.fd)
            watch.registered = False

    def _take(self, fd: int) -> bool:
        """Call a socket's step; whether some task may have become runnable."""
        step = self._live.get(fd)
        if step is None:  # its task is busy: no more reports until it waits again
            self._unregister(self._watches[fd])
            return False
        try:
            turn = step()
        except BaseException as error:  # noqa: BLE001 -- it is the task's, not trio's
            self._watches[fd].leave(error)
            return True
        if turn is ReadyTasks.NONE:
            return False
        if turn is ReadyTasks.MINE:
            self._watches[fd].leave()
        return True

    def _take_all(self, events: list[tuple[int, int]]) -> tuple[bool, bool]:
        """Run the steps of ready files, the compositor's first.

        Return whether trio is ready, and whether a task may have become so.
        """
        ready = woken = False
        clients = []
        for fd, _ in events:
            if fd == self._trio:
                ready = True
                continue
            # guard: the compositor before clients
            if self._watches[fd].urgent:
                woken |= self._take(fd)
            else:
                clients.append(self._watches[fd])
        if len(clients) > 1:
            # guard: the client first that waited longest
            clients.sort(key=_served)
        end = perf_counter() + _TOGETHER_SECONDS
        for watch in clients:
            if self._watches.get(watch.fd) is watch:
                self._taken += 1
                watch.served = self._taken
                woken |= self._take(watch.fd)
            # guard: a look at the compositor between clients
            if perf_counter() > end:
                break
        return ready, woken

    # -- inside trio's loop ------------------------------------------------------

    # Sound is read where trio would sleep. PulseAudio asks a client that wants 20 ms
    # two hundred times a second, and each question and each answer wakes the filter.
    # The filter's own work is then three microseconds; the turn of an event loop around
    # it is ten times as much, with caches that went cold in the five milliseconds
    # before. So a sound socket has no task that waits for it but a function, and
    # functions are called from trio's own hook before it sleeps
    # (`jail/worker/readiness.py`): there we wait for the sound sockets and for trio's
    # epoll descriptor at once, and leave as soon as trio has anything to do. Windows'
    # sockets and display streams are read the same way since then, and work that has to
    # wait (for room, for a rate limit, for a paste) is left to a task: a round trip
    # costs the filter 22 µs of CPU time where it cost 30, a video a fifth less. Nothing
    # else changes its order: a deadline or a signal is served as before. A trio that
    # keeps its descriptor elsewhere fails at the worker's start; `pyproject.toml`
    # bounds its version. It costs about what a loop under trio or under asyncio costs
    # that copies and looks at nothing (`copy`, `asyncio` in `python -m
    # tests.bench.pulse`), and each piece of sound is sooner through it.
    #
    # Four other designs were rejected. Holding a question back until the next one comes
    # halves the wakes, and takes a quarter of what keeps the stream from running dry.
    # Waiting for a client's answer on the spot stops the sandbox's windows meanwhile. A
    # thread with a second loop would put a second place into the worker that must hear
    # of a revoke at once, and threads into its jail. C would read a sandbox's bytes.
    @override
    def before_io_wait(self, timeout: float) -> None:
        """Poll in trio's place, and run the steps of ready files.

        Leave others to trio.
        """
        end = time.monotonic() + timeout
        most = len(self._watches) + 1
        while True:
            ready, woken = self._take_all(self._epoll.poll(timeout, most))
            # guard: windows beside sound
            if ready or timeout <= 0:
                return
            if woken and trio.lowlevel.current_statistics().tasks_runnable:
                self._wake_trio()
                return
            timeout = end - time.monotonic()
            if timeout <= 0:
                # It would sleep all the time again, unless it waits for nothing
                # to happen (``wait_all_tasks_blocked``): that we may not break.
                due = trio.lowlevel.current_statistics().seconds_to_next_deadline
                if due < _NEAR_SECONDS:
                    self._wake_trio()
                return

    def _wake_trio(self) -> None:
        """Its sleep was planned before tasks became runnable."""
        self._token.run_sync_soon(_nothing, idempotent=True)


async def turn() -> None:
    """Wait until no other task of a client has its turn.

    Those that wait get it in order, each in another round of trio's loop.
    """
    steps = _steps_of_this_run()
    # guard: one client after the other
    async with steps.turn:
        pass


def _served(watch: WatchedFile) -> int:
    return watch.served


def _nothing() -> None:
    pass


_this_run: trio.lowlevel.RunVar[_Steps] = trio.lowlevel.RunVar("_this_run")


def prepare() -> None:
    """Prepare watches, for processes that may make no descriptors later."""
    _steps_of_this_run()


def _steps_of_this_run() -> _Steps:
    """Return this event loop's watched files."""
    try:
        return _this_run.get()
    except LookupError:
        steps = _Steps()
        _this_run.set(steps)
        return steps
