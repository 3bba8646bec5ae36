"""Run tests in forks of the process that has collected them (``--workers=N``).

Each worker of pytest-xdist collects all tests, and exchanges messages with the main
process between two of them: a quarter of the time of quick tests.  A fork has the tests
already.  It takes one file of tests after another, those with most tests first, and the
parent calls pytest's hooks with its reports: ``-x``, ``--lf``, ``--durations`` and the
summary work as in a run without workers.
"""

from __future__ import annotations

import mmap
import os
import select
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

_INDEX_BYTES = 4


class Workers:
    """The parent, which reports what ``number`` forks of it run."""

    def __init__(self, number: int) -> None:
        self._number = number

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        option = session.config.option
        if option.collectonly or option.usepdb or option.trace or session.testsfailed:
            return None  # pytest's own loop
        files: dict[Any, list[pytest.Item]] = {}
        for item in session.items:
            files.setdefault(item.path, []).append(item)
        order = sorted(files.values(), key=len, reverse=True)
        # A pipe, from which each index is read once.  The kernel does not lock the
        # offset of a memory file (no FMODE_ATOMIC_POS): two forks read the same one.
        queue, fill = os.pipe()
        assert len(order) * _INDEX_BYTES <= select.PIPE_BUF * 16, "fits into the pipe"
        os.write(fill, b"".join(n.to_bytes(_INDEX_BYTES) for n in range(len(order))))
        os.close(fill)
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        stop = mmap.mmap(-1, 1)
        pids: dict[Connection, int] = {}
        ends: dict[Connection, int] = {}
        try:
            for _ in range(min(self._number, len(order))):
                reader, writer = Pipe(duplex=False)
                pids[reader] = os.fork()
                if not pids[reader]:
                    _work_and_exit(_Work(session, order, queue, stop, writer), pids)
                writer.close()
                ends[reader] = os.pidfd_open(pids[reader])
            _report(session, ends.copy())
        finally:
            stop[0] = True
            for reader, pid in pids.items():
                reader.close()
                os.waitpid(pid, 0)
            for fd in (queue, *ends.values()):
                os.close(fd)
        return True


def _report(session: pytest.Session, ends: dict[Connection, int]) -> None:
    """Call the hooks for reports until all forks have ended; ``ends`` has their pidfds."""
    hook = session.config.hook
    missing = {item.nodeid: item for item in session.items}
    while ends:
        ready = wait([*ends, *ends.values()])
        for reader, pidfd in list(ends.items()):
            if reader not in ready and pidfd not in ready:
                continue
            # Without its end of file: a process that a test left behind may hold the pipe.
            if not reader.poll():
                del ends[reader]
                continue
            try:
                reports = reader.recv()
            except EOFError:
                del ends[reader]
                continue
            for data in reports:
                report = hook.pytest_report_from_serializable(
                    config=session.config, data=data
                )
                missing.pop(report.nodeid, None)
                hook.pytest_runtest_logreport(report=report)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    for item in missing.values():
        error = "a worker ended in this test, or before it could run"
        hook.pytest_runtest_logreport(
            report=pytest.TestReport(
                item.nodeid, item.location, {}, "failed", error, "call"
            )
        )


@dataclass(frozen=True)
class _Work:
    """A fork: runs the tests of the files that it takes, and sends the reports."""

    session: pytest.Session
    files: list[list[pytest.Item]]
    queue: int
    stop: mmap.mmap
    writer: Connection

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool:
        to_data = item.config.hook.pytest_report_to_serializable
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        self.writer.send(
            [to_data(config=item.config, report=report) for report in reports]
        )
        return True

    def _taken(self) -> Iterator[list[pytest.Item]]:
        while index := os.read(self.queue, _INDEX_BYTES):
            yield self.files[int.from_bytes(index)]

    def run(self) -> None:
        config = self.session.config
        # The forks must not share the file into which the output of tests goes.
        if capture := config.pluginmanager.getplugin("capturemanager"):
            capture.stop_global_capturing()
            capture.start_global_capturing()
            capture.suspend_global_capture()
        config.pluginmanager.register(self, "vitrail-work")
        items = chain.from_iterable(self._taken())
        item = next(items, None)
        while item is not None and not self.stop[0]:
            following = next(items, None)
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            item = following
        self.session._setupstate.teardown_exact(None)


def _work_and_exit(work: _Work, others: dict[Connection, int]) -> None:
    code = 1
    try:
        for reader in others:
            reader.close()
        work.run()
        code = 0
    except KeyboardInterrupt:
        pass  # the parent has received it, too
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
