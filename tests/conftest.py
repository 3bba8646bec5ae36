"""What every test shares: the long thirds, the must-run list, profiles."""

from __future__ import annotations

import functools
import inspect
import os
import time
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, settings

from tests.kit.bounded import bounded, drop_abandoned_run

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

_NO_TIME = "no time is left in this run"
_MAY_SKIP = (_NO_TIME, "make mutate")
"""Skips that say nothing about the machine: a command of its own runs those."""
_STRIDE = 17
_UNTIL = {"long": "VITRAIL_LONG_UNTIL", "slow": "VITRAIL_SLOW_UNTIL"}
_SHORT_SECONDS = 150
"""The slowest short test takes 25 s in CI: this is a hang."""
_LONG_SECONDS = 540
"""Where a run must end; on a quiet machine no long test takes half of it."""
_GRACE_SECONDS = 30
"""For what hangs so that it cannot be cancelled, or outside trio."""
_HERE = Path(__file__).parent
_REAL_MACHINES = frozenset({"attack", "e2e", "integration"})
MUST_RUN = Path(__file__).with_name("must_run.txt")


def pytest_addoption(parser):
    parser.addoption(
        "--long-third",
        type=int,
        choices=(0, 1, 2),
        help="run only every third of the selected tests, beginning at this one",
    )
    parser.addoption(
        "--long-turn",
        type=int,
        default=0,
        help="begin elsewhere in that third, so that other tests come last",
    )


def pytest_collection_modifyitems(config, items):
    _allow_second_attempt(items)
    _bound_tests(items)
    third = config.getoption("--long-third")
    if third is None:
        _slow_ones_last(items)
        return
    long = [item for item in items if item.get_closest_marker("long")]
    drop = [item for n, item in enumerate(long) if n % 3 != third]
    config.hook.pytest_deselected(items=drop)
    left = [item for item in items if item not in drop]
    items[:] = _from_elsewhere(left, config.getoption("--long-turn"))


def _slow_ones_last(items):
    slow = [item for item in items if item.get_closest_marker("slow")]
    left = [item for item in items if not item.get_closest_marker("slow")]
    items[:] = left + _from_elsewhere(slow, int(os.environ.get("VITRAIL_TURN", "0")))


def _from_elsewhere(items, turn):
    """Begin at another place each turn, so that other tests come last."""
    start = turn * _STRIDE % max(1, len(items))
    return items[start:] + items[:start]


def _until(name):
    """A moment of a run that must end; s since 1970."""
    until = os.environ.get(name)
    return float(until) if until else None


def _last_begin(item):
    """When a test may begin at the latest, in a run that must end, and its name."""
    for marker, name in _UNTIL.items():
        if item.get_closest_marker(marker):
            return _until(name), name
    return None, ""


def _time_is_left(item):
    """For a second attempt, also of a test that is neither slow nor long."""
    until = _last_begin(item)[0] or _until(_UNTIL["slow"])
    return until is None or time.time() < until


def _bound_tests(items):
    """What hangs costs minutes of a run that must end in time: few of them."""
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
    return seconds if _until(_UNTIL["long"]) is None else min(seconds, _LONG_SECONDS)


def _allow_second_attempt(items):
    """A test with a real compositor, VM or sound server may fail once; it is told.

    What a machine with other work does to thirty processes is not always the
    change's fault.  Pure logic has no such excuse.
    """
    for item in items:
        if item.path.is_relative_to(_HERE) and (
            item.path.relative_to(_HERE).parts[0] in _REAL_MACHINES
        ):
            again = functools.partial(_time_is_left, item)
            item.add_marker(pytest.mark.flaky(reruns=1, condition=again))


def pytest_terminal_summary(terminalreporter):
    """Who passed at the second attempt only, and why not at the first one."""
    again = terminalreporter.stats.get("rerun", [])
    if not again:
        return
    terminalreporter.section("failed at the first attempt")
    for report in again:
        terminalreporter.write_line(f"SECOND ATTEMPT {report.nodeid}", yellow=True)
        terminalreporter.write_line(str(report.longrepr))


def pytest_runtest_setup(item):
    """A run that must end in time begins no long test too late; it says which."""
    if getattr(item, "execution_count", 1) > 1:
        drop_abandoned_run()
        return
    until, name = _last_begin(item)
    if until is not None and time.time() >= until:
        pytest.skip(f"{_NO_TIME} ({name}); its turn comes again")


def _must_run():
    lines = MUST_RUN.read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skip of a test in must_run.txt is a failure: it hid a lost wall."""
    report = yield
    if call.excinfo is not None and trio.lowlevel.in_trio_run():
        drop_abandoned_run(call.excinfo.tb)  # else no later test could run
    allowed = any(words in str(report.longrepr) for words in _MAY_SKIP)
    if report.skipped and os.environ.get("CI") and not allowed:
        name = item.nodeid.partition("[")[0]
        if any(name == line or name.startswith(line + "::") for line in _must_run()):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} must run in CI, but: {report.longrepr}"
    return report
