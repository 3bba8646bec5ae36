"""The end of a test process that nothing else can end, so that a run always ends.

pytest-timeout raises once, in the main thread: a test that hangs again in its teardown,
or where no Python runs, would hold the run up for ever.  A thread of faulthandler, which
needs no Python, prints all stacks then and ends the process; pytest-xdist reports the
test as failed and starts another worker.
"""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Iterator

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key

_BETWEEN_SECONDS = 900
"""A worker that is done waits for the others: longer than any short test."""
_SLACK_SECONDS = 10
"""How much later than its moment a process of quick tests may be ended."""


class Watch:
    """Ends this process ``grace`` seconds after a test should have been ended.

    To arm it starts a thread and ends one, which takes a quick test's time.  In a run
    of ``quick`` tests none waits long for another worker, so it stays as it is for
    some seconds.
    """

    def __init__(self, grace: float, quick: bool = False) -> None:
        self._grace = grace
        self._quick = quick
        self._seconds = 0.0
        self._armed = (0.0, 0.0)
        """The seconds that it was armed for, and when that is no longer enough."""

    def _arm(self, config: pytest.Config) -> None:
        stderr = config.stash.get(fault_handler_stderr_fd_key, 2)
        faulthandler.dump_traceback_later(self._seconds, file=stderr, exit=True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        timeout = item.get_closest_marker("timeout")
        assert timeout is not None, "tests/conftest.py gives each test one"
        # Both attempts of a test are one call of this hook.
        self._seconds = 2 * timeout.args[0] + self._grace
        if self._quick:
            self._arm_for_some(item.config)
            return (yield)
        self._arm(item.config)
        try:
            return (yield)
        finally:
            self._seconds = _BETWEEN_SECONDS
            self._arm(item.config)

    def _arm_for_some(self, config: pytest.Config) -> None:
        seconds, until = self._armed
        if self._seconds != seconds or time.monotonic() > until:
            self._armed = (self._seconds, time.monotonic() + _SLACK_SECONDS)
            self._seconds += _SLACK_SECONDS
            self._arm(config)

    @pytest.hookimpl(trylast=True)
    def pytest_exception_interact(self, node: pytest.Item) -> None:
        """Arm it again: pytest's own plugin has disarmed it."""
        if self._seconds:
            self._arm(node.config)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        faulthandler.cancel_dump_traceback_later()
