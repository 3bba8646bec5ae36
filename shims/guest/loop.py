"""The event loop: readiness of descriptors, timers and ended children."""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import signal
import subprocess
import time
import traceback
from typing import Callable, Dict, List, Optional


def log(text: str) -> None:
    """Write a line to the console; a console that is stuck loses it."""
    try:
        os.write(2, ("vitrail: " + text + "\n").encode("utf-8", "replace"))
    except OSError:
        return


class Timer:
    """A callback at a time; ``cancel`` forgets it."""

    def __init__(self, due: float, action: Callable[[], None]) -> None:
        self.due = due
        self.action: Optional[Callable[[], None]] = action

    def cancel(self) -> None:
        """Forget the callback."""
        self.action = None

    def __lt__(self, other: "Timer") -> bool:
        return self.due < other.due


class Loop:
    """Readiness of descriptors, timers and ended children; one thread.

    A callback that raises ends that callback's work only: the error goes to
    the console and the loop continues, for no process restarts a PID 1.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: List[Timer] = []
        self._running = True
        self._children: Dict[int, Callable[[int], None]] = {}
        self._wake_read, wake_write = os.pipe()
        for fd in (self._wake_read, wake_write):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self.watch(self._wake_read, selectors.EVENT_READ, self._woken)

    def watch(self, fd: int, events: int, action: Callable[[int], None]) -> None:
        """Call ``action(events)`` on readiness; 0 events stops watching."""
        known = fd in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(fd)
        elif known:
            self._selector.modify(fd, events, action)
        else:
            self._selector.register(fd, events, action)

    def forget(self, fd: int) -> None:
        """Stop watching; must come before the descriptor is closed."""
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def later(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Call ``action`` once, after so many seconds."""
        timer = Timer(time.monotonic() + seconds, action)
        heapq.heappush(self._timers, timer)
        return timer

    def child(
        self, process: "subprocess.Popen[bytes]", ended: Callable[[int], None]
    ) -> None:
        """Call ``ended(code)`` when this child has been reaped."""
        # We reap with waitpid(-1), as a PID 1 must; make Popen skip that.
        process.returncode = 0
        self.child_number(process.pid, ended)

    def child_number(self, pid: int, ended: Callable[[int], None]) -> None:
        """Call ``ended(code)`` when the child of this number has been reaped."""
        self._children[pid] = ended
        self._reap()

    def stop(self) -> None:
        """Leave ``run`` after this round."""
        self._running = False

    def run(self) -> None:
        """Dispatch ready descriptors and timers until ``stop``."""
        while self._running:
            for key, events in self._selector.select(self._patience()):
                self._guard(key.data, events)
            now = time.monotonic()
            while self._timers and self._timers[0].due <= now:
                timer = heapq.heappop(self._timers)
                if timer.action is not None:
                    self._guard(timer.action)

    def _patience(self) -> Optional[float]:
        while self._timers and self._timers[0].action is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0].due - time.monotonic())

    def _guard(self, action: Callable[..., None], *arguments: object) -> None:
        try:
            action(*arguments)
        except Exception:
            log("internal error: " + traceback.format_exc())

    def _woken(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        self._reap()

    def _reap(self) -> None:
        """Wait for ended children; call what waits for each."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self._children.pop(pid, None)
            if ended is not None:
                self._guard(ended, exit_code(status))


def exit_code(status: int) -> int:
    """Return 0..255, or minus the number of the signal that killed it."""
    if os.WIFSIGNALED(status):
        return -os.WTERMSIG(status)
    return os.WEXITSTATUS(status)
