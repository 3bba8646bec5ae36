"""Rules for every test: second attempts, ends of hangs, parts of a run, must-run."""

from __future__ import annotations

import importlib
import inspect
import os
import time
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings

from tests.kit.bounded import bounded, drop_abandoned_run
from tests.kit.suite.skips import NO_TIME, unlisted_skip

settings.register_profile("dev", max_examples=50, deadline=None, database=None)
settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)

# A parent would be made beside each test that starts a broker.
os.environ.setdefault("VITRAIL_FORK", "no")

# The machine types that users with KVM have, emulated.  With "tcg" all machines are q35.
os.environ.setdefault("VITRAIL_ACCEL", "kvm-type")

# Tests compare English texts; before a module reads a catalogue.
for _name in ("LANGUAGE", "LC_ALL", "LC_MESSAGES"):
    os.environ.pop(_name, None)
os.environ["LANG"] = "C.UTF-8"

# Before a test loads GTK: PyGObject makes the symbols of the system's FreeType and HarfBuzz
# global, and Pillow, loaded later, would call these in place of its own.
importlib.import_module("PIL._imagingft")

pytest_plugins = ["tests.kit.suite.plugin", "tests.kit.suite.fixtures"]


@pytest.fixture
def autojump_clock():
    """Replace pytest-trio's fixture: let threads and sockets have 1 ms before a jump.

    Its threshold of 0 never sleeps: while a test waits for a thread, trio's loop takes
    Python's lock from that thread, and a store that opens in 10 ms opened in 3 s.
    """
    return trio.testing.MockClock(autojump_threshold=0.001)


_LONG_UNTIL = "VITRAIL_LONG_UNTIL"
_AGAIN_UNTIL = "VITRAIL_AGAIN_UNTIL"
_SHORT_SECONDS = 150
"""The slowest short test takes 25 s in CI: anything longer is a hang."""
_LONG_SECONDS = 540
"""Where a run must end; on a quiet machine no long test takes half of it."""
_GRACE_SECONDS = 30
"""For a hang that cannot be cancelled, or is outside trio."""
_HERE = Path(__file__).parent
_REAL_MACHINES = frozenset(
    {"attack", "conformance", "e2e", "integration", "life", "programs"}
)


def pytest_collection_modifyitems(config, items):
    _allow_second_attempt(config, items)
    _bound_tests(items)


def _until(name=_LONG_UNTIL):
    """The moment after which no long test may begin; s since 1970, or None."""
    until = os.environ.get(name)
    return float(until) if until else None


def _time_is_left(name=_LONG_UNTIL):
    until = _until(name)
    return until is None or time.time() < until


def _time_for_another():
    """Whether a test may have its second attempt: later than a long one may begin.

    A test that fails for a slow machine fails late in the run, after the last
    long test has begun.
    """
    return _time_is_left(_AGAIN_UNTIL)


def _bound_tests(items):
    """End each test that hangs: one costs minutes of a run that must end in time."""
    for item in items:
        seconds = _seconds(item)
        if inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.trio(run=bounded(seconds)), append=False)
            seconds += _GRACE_SECONDS
        item.add_marker(pytest.mark.timeout(seconds), append=False)


def _seconds(item):
    own = item.get_closest_marker("timeout")
    if not item.get_closest_marker("long"):
        return own.args[0] if own is not None else _SHORT_SECONDS
    seconds = own.args[0] if own is not None else float(item.config.getini("timeout"))
    return seconds if _until() is None else min(seconds, _LONG_SECONDS)


def _allow_second_attempt(config, items):
    """Let a test with a real compositor, VM or sound server fail once, and report it.

    A machine with other work can delay one of thirty processes without any fault
    of the change.  Pure logic has no such excuse: 'make unit' runs without the plugin.
    """
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in items:
        if item.path.is_relative_to(_HERE) and (
            item.path.relative_to(_HERE).parts[0] in _REAL_MACHINES
        ):
            item.add_marker(pytest.mark.flaky(reruns=1, condition=_time_for_another))


def pytest_terminal_summary(terminalreporter):
    """Print which tests passed only at the second attempt, and why."""
    again = terminalreporter.stats.get("rerun", [])
    if not again:
        return
    terminalreporter.section("failed at the first attempt")
    for report in again:
        terminalreporter.write_line(f"SECOND ATTEMPT {report.nodeid}", yellow=True)
        terminalreporter.write_line(str(report.longrepr))


def pytest_runtest_setup(item):
    """Begin no long test too late in a run that must end; the skip names it.

    The plan (tests/kit/suite/parts.py) is made so that this does not happen; it is
    the last guard of the run's end, for a machine that became slow meanwhile.
    """
    if getattr(item, "execution_count", 1) > 1:
        drop_abandoned_run()
        return
    if item.get_closest_marker("long") and not _time_is_left():
        pytest.skip(f"{NO_TIME} ({_LONG_UNTIL}); its turn comes again")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skip that may_skip.txt does not allow is a failure."""
    report = yield
    if call.excinfo is not None and trio.lowlevel.in_trio_run():
        drop_abandoned_run(call.excinfo.tb)  # else no later test could run
    # 'make unit' is for machines without packages, before 'make test' has them.
    if os.environ.get("CI") and not item.config.getoption("quick"):
        failure = unlisted_skip(item.nodeid, report)
        if failure:
            report.outcome, report.longrepr = "failed", failure
    return report
