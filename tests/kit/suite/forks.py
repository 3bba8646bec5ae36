"""Run pytest many times in forks of one process that has imported other people's modules.

A separate process, a script and not a module of ``tests``: nothing of the project may
be imported before the fork, because the callers change the project between two runs.
A line on standard input is a run, ``[arguments, seconds]``; the line that answers it is
pytest's exit code, ``NONE_PASSED`` or ``HUNG``.  What the last run printed is in
``forks.log`` in the working directory.  Nothing that a run started outlives it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

NONE_PASSED = 100
"""Every test was skipped."""
HUNG = 101
_WARM = [
    "_pytest.assertion",
    "_pytest.pastebin",
    "asyncio",
    "concurrent.futures",
    "ctypes",
    "cryptography.hazmat.primitives.asymmetric.x25519",
    "cryptography.x509",
    "http.client",
    "hypothesis.internal.conjecture.engine",
    "hypothesis.strategies",
    "jeepney.io.common",
    "logging.config",
    "msgspec.json",
    "msgspec.toml",
    "multiprocessing",
    "pdb",
    "PIL.Image",
    "rich_click",
    "sqlite3",
    "ssl",
    "tomllib",
    "trio.testing",
    "typing_extensions",
    "uuid",
    "xml.etree.ElementTree",
    "zipfile",
]
"""No plugin of pytest, which expects to import those itself."""
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class _Passed:
    """Counts the tests that passed."""

    count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.when == "call" and report.passed


def main() -> None:
    for name in _WARM:
        with suppress(ImportError):
            importlib.import_module(name)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        print(_run(*json.loads(line)), flush=True)


def _run(arguments: list[str], seconds: float) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(_child(arguments))
    hung = _hangs(pid, seconds)
    if hung:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    _end_descendants()
    return HUNG if hung else os.waitstatus_to_exitcode(status)


def _hangs(pid: int, seconds: float) -> bool:
    """Whether a child still runs after so long; time that it waited for a CPU is free."""
    began = time.monotonic()
    ended = os.pidfd_open(pid)
    left = seconds
    while left > 0 and not select.select([ended], [], [], left)[0]:
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
        left = seconds + waited - (time.monotonic() - began)
    os.close(ended)
    return left <= 0


def _child(arguments: list[str]) -> int:
    os.setsid()
    log = os.open("forks.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for fd, stream in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(fd, stream)
    passed = _Passed()
    code = int(pytest.main(arguments, [passed]))
    sys.stdout.flush()
    sys.stderr.flush()
    return code or (0 if passed.count else NONE_PASSED)


def _end_descendants() -> None:
    """Kill remaining ones; orphans come to this process, their subreaper (prctl(2))."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with suppress(ChildProcessError):
        while True:
            for child in children.read_text().split():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


if __name__ == "__main__":
    main()
