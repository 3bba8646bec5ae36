"""The parts of a run: beside others, alone, the long ones of this turn; their times.

``--alone=never`` and ``--alone=only`` divide a run in two: with workers first,
then one by one the tests marked ``alone``.  ``--as-root=only`` runs the tests marked
``root`` and no other, whatever else is chosen; in the other parts they are left out
(``--as-root=never``) or skipped.  ``--long-turn`` chooses a part of the
long tests.  ``--times-to`` keeps what each test took.
"""

from __future__ import annotations

import gc
import os
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.suite.parts import plan
from tests.kit.suite.times import LEAST_SECONDS, read_times, slowness, write_times
from tests.kit.suite.watch import Watch
from tests.kit.suite.workers import Workers

ROOT = Path(__file__).resolve().parents[3]
TIMES = ROOT / "tests" / "times.tsv"
FOR_ROOT = "for root alone: root's 'make test' runs it as root"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vitrail", "parts of a run")
    group.addoption(
        "--alone",
        choices=("only", "never"),
        help="only the tests that need the machine for themselves, or none of them",
    )
    group.addoption(
        "--as-root",
        choices=("only", "never"),
        help="only the tests that are for root alone, or none of them",
    )
    group.addoption(
        "--long-turn",
        type=int,
        metavar="N",
        help="a third of the long tests, by their times; three turns see them all",
    )
    group.addoption(
        "--long-budget",
        type=float,
        metavar="SECONDS",
        help="as many of that third as are expected to end in this time",
    )
    group.addoption(
        "--long-workers",
        type=int,
        default=2,
        metavar="N",
        help="how many run beside each other, for that expectation",
    )
    group.addoption(
        "--quick",
        action="store_true",
        help=f"no long test, and none that takes {LEAST_SECONDS} s (tests/times.tsv)",
    )
    group.addoption(
        "--quick-ran",
        default="",
        metavar="PATHS",
        help="without those that --quick chooses of these files and folders",
    )
    group.addoption(
        "--workers",
        type=int,
        metavar="N",
        help="run in so many forks of the process that has collected the tests",
    )
    group.addoption(
        "--times-to",
        metavar="FILE",
        help="write what each test took; relative to $VITRAIL_OUT where that is set",
    )
    group.addoption(
        "--hang-grace",
        type=float,
        default=60,
        metavar="SECONDS",
        help="end the process of a test so long after both attempts' time has passed",
    )
    group.addoption(
        "--times-from",
        metavar="FILE",
        help="what tests took on this machine today, to know how slow it is",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Times(config), "vitrail-times")
    config.pluginmanager.register(
        Watch(config.getoption("hang_grace"), quick=config.getoption("quick")),
        "vitrail-watch",
    )
    if workers := config.getoption("workers"):
        config.pluginmanager.register(Workers(workers), "vitrail-workers")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector away from what collecting makes.

    These are 400,000 objects that live to the end: looking at them again and again took
    7 of 25 s here, and a seventh of the time of quick tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Send a worker's words about second attempts at once.

    pytest-rerunfailures writes two small messages for each test to the main process,
    over TCP: by Nagle's algorithm the later one would wait for the acknowledgement of
    the earlier one, which the kernel delays by up to 40 ms.
    """
    database = getattr(session.config, "failures_db", None)
    if isinstance(sock := getattr(database, "sock", None), socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Read no file that cannot have a test of this run: collecting takes 20 s."""
    if collection_path.suffix != ".py":
        return None
    if config.getoption("as_root") == "only":
        return True if "mark.root" not in collection_path.read_text() else None
    if config.getoption("alone") != "only":
        return None
    if config.getoption("long_turn") is not None or _machines_share_ports():
        return None
    return True if "mark.alone" not in collection_path.read_text() else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Choose after -m and -k have chosen (therefore last)."""
    _choose_root(config, items)
    _choose_quick(config, items)
    _choose_long(config, items)
    _choose_alone(config, items)
    _choose_failed(config, items)


def _choose_long(config: pytest.Config, items: list[pytest.Item]) -> None:
    turn = config.getoption("long_turn")
    if turn is None:
        return
    by_name = {item.nodeid: item for item in items if item.get_closest_marker("long")}
    times = read_times(TIMES)
    today = config.getoption("times_from")
    workers = config.getoption("long_workers")
    chosen = plan(
        list(by_name),
        times,
        turn=turn,
        budget=config.getoption("long_budget"),
        slowness=slowness(read_times(_file(today)), times) if today else 1.0,
        cost=lambda name: 1.0 if is_alone(by_name[name]) else 1.0 / workers,
    )
    config.stash[_LEFT_OUT] = list(chosen.left_out)
    left = [by_name[name] for name in chosen.run]
    _keep(config, items, left)


def _choose_root(config: pytest.Config, items: list[pytest.Item]) -> None:
    which = config.getoption("as_root")
    for_root = [item for item in items if item.get_closest_marker("root")]
    if which == "only":
        _keep(config, items, for_root)
    elif which == "never" or config.getoption("long_turn") is not None:
        _keep(config, items, [item for item in items if item not in set(for_root)])
    elif os.geteuid() != 0:
        for item in for_root:
            item.add_marker(pytest.mark.skip(reason=FOR_ROOT))


def _choose_quick(config: pytest.Config, items: list[pytest.Item]) -> None:
    quick, ran = config.getoption("quick"), config.getoption("quick_ran").split()
    if not (quick or ran):
        return
    times = read_times(TIMES)
    chosen = {
        item
        for item in items
        if item.nodeid not in times
        and not any(item.get_closest_marker(name) for name in ("long", "slow"))
    }
    if not quick:
        places = [config.rootpath / path for path in ran]
        chosen = {
            item
            for item in items
            if item not in chosen
            or not any(item.path.is_relative_to(place) for place in places)
        }
    _keep(config, items, [item for item in items if item in chosen])


def _choose_alone(config: pytest.Config, items: list[pytest.Item]) -> None:
    if which := config.getoption("alone"):
        alone = which == "only"
        _keep(config, items, [item for item in items if is_alone(item) == alone])


def _choose_failed(config: pytest.Config, items: list[pytest.Item]) -> None:
    """``--lf`` where the failures are all in the other part: nothing, not everything."""
    if not (config.getoption("alone") and config.getoption("lf", default=False)):
        return
    failed = config.cache.get("cache/lastfailed", {}) if config.cache else {}
    if failed and not any(item.nodeid in failed for item in items):
        _keep(config, items, [])


def _file(name: str) -> Path:
    path = Path(os.environ.get("VITRAIL_OUT", "."), name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _keep(
    config: pytest.Config, items: list[pytest.Item], left: list[pytest.Item]
) -> None:
    kept = set(left)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = left


def is_alone(item: pytest.Item) -> bool:
    """Whether a test needs the machine for itself."""
    if item.get_closest_marker("alone"):
        return True
    # One broker on a machine can have the AF_VSOCK ports of the services.
    e2e = item.path.parent.name == "e2e"
    return e2e and _machines_share_ports()


def _machines_share_ports() -> bool:
    return os.access("/dev/vhost-vsock", os.R_OK | os.W_OK)


_LEFT_OUT = pytest.StashKey[list[str]]()


class _Times:
    """Seconds of each test, setup and teardown included; in the main process."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._took: Counter[str] = Counter()
        self._left_out: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "rerun":
            self._took[report.nodeid] += report.duration  # type: ignore[assignment]

    def pytest_sessionfinish(self) -> None:
        left_out = self._config.stash.get(_LEFT_OUT, [])
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["left_out"] = left_out
            return
        self._left_out = self._left_out or left_out
        if path := self._config.getoption("times_to"):
            write_times(_file(path), self._took)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self._left_out = getattr(node, "workeroutput", {}).get("left_out", [])

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._config.getoption("long_turn") is None:
            return
        terminalreporter.section("long tests of this turn")
        for name, seconds in sorted(self._took.items()):
            terminalreporter.write_line(f"{seconds:6.1f} s  {name}")
        for name in self._left_out:
            terminalreporter.write_line(f"no time   {name}")
