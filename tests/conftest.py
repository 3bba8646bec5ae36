"""What every test shares: the long thirds, the must-run list, profiles."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("dev", max_examples=50, deadline=None, database=None)
settings.register_profile(
    "ci",
    max_examples=300,
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
    third = config.getoption("--long-third")
    if third is None:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    drop = [item for n, item in enumerate(long) if n % 3 != third]
    config.hook.pytest_deselected(items=drop)
    left = [item for item in items if item not in drop]
    start = config.getoption("--long-turn") * _STRIDE % max(1, len(left))
    items[:] = left[start:] + left[:start]


def pytest_runtest_setup(item):
    """A run that must end in time begins no long test too late; it says which."""
    until = os.environ.get("VITRAIL_LONG_UNTIL")
    if until and item.get_closest_marker("long") and time.time() > float(until):
        pytest.skip(f"{_NO_TIME} (VITRAIL_LONG_UNTIL); its turn comes again")


def _must_run():
    lines = MUST_RUN.read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skip of a test in must_run.txt is a failure: it hid a lost wall."""
    report = yield
    allowed = any(words in str(report.longrepr) for words in _MAY_SKIP)
    if report.skipped and os.environ.get("CI") and not allowed:
        name = item.nodeid.partition("[")[0]
        if any(name == line or name.startswith(line + "::") for line in _must_run()):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} must run in CI, but: {report.longrepr}"
    return report
