"""The memory of a box's programs, which ``brokerctl status`` and the manager show."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import trio

from broker.core import process_status
from broker.core.limits.machines import PROGRAM_FILES, PROGRAM_SECONDS
from broker.core.names import SandboxName
from broker.helpers.process.memory import read_memory
from broker.host import host_status, program_memory
from broker.host.host_status import HostRows
from broker.host.machine_interface import PROGRAMS
from broker.host.program_memory import figures_of_programs
from broker.host_and_viewer.measured_rows import with_memory

MIB = 1 << 20
PAGE = resource.getpagesize()
# Each has 40 MiB of its own.  A browser starts its pages from a thread.
PROGRAM = """
import subprocess, sys, threading
kept = b"x" * (40 << 20)
depth = int(sys.argv[1])

def start():
    if depth:
        below = [sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]]
        subprocess.Popen(below)
    else:
        print(flush=True)
    sys.stdin.read()

threading.Thread(target=start).start()
"""


@pytest.fixture
def box():
    """A program, what a thread of it has started, and what a thread of that has."""
    words = [sys.executable, "-c", PROGRAM, "2", PROGRAM]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()  # of the last one
        yield child
        child.stdin.close()


def test_programs_that_threads_of_others_started_are_counted(box):
    found = figures_of_programs(box.pid)
    assert 120 * MIB < found.memory < 200 * MIB
    # One process alone, as it was shown before.
    assert read_memory(box.pid).proportional < 80 * MIB


def role_with(*processes):
    """The host's role with one lease, whose machine has these processes."""
    machine = SimpleNamespace(facts=SimpleNamespace(processes=processes))
    lease = SimpleNamespace(sandbox=SandboxName("work"))
    active = SimpleNamespace(lease=lease, machine=machine)
    return SimpleNamespace(active_leases=lambda: [active])


async def test_the_row_of_a_sandboxs_first_process_has_the_memory_of_all(box):
    role = role_with((PROGRAMS, box.pid), ("acceptor", os.getpid()))
    rows = HostRows(role, dict, list)
    first, acceptor = await with_memory(rows.processes(), host_status.measure)
    assert (first.role, first.sandbox) == ("programs", "work")
    assert 120 * MIB < first.memory < 200 * MIB
    assert acceptor.memory == pytest.approx(
        read_memory(os.getpid()).proportional, rel=0.5
    )


class Proc:
    """A false /proc."""

    def __init__(self, root):
        self._root = root

    def process(self, pid, parent, children="", pages=1, threads=()):
        for thread in (pid, *threads):
            (self._root / f"{pid}/task/{thread}").mkdir(parents=True)
            (self._root / f"{pid}/task/{thread}/children").write_text(children)
        stat = (
            f"{pid} (a) R 9 (b\n) S {parent} 5 5 0\n"  # its own name has a parent, too
        )
        (self._root / f"{pid}/stat").write_text(stat)
        (self._root / f"{pid}/statm").write_text(f"9000 {pages + 200} 200 1 0 1 0\n")
        (self._root / f"{pid}/status").write_text("Seccomp:\t2\n")


@pytest.fixture
def proc(tmp_path, monkeypatch):
    monkeypatch.setattr(program_memory, "_PROC", tmp_path)
    monkeypatch.setattr(process_status, "_PROC", tmp_path)
    return Proc(tmp_path)


def test_memory_of_its_own_is_counted_once_for_each_process(proc):
    proc.process(7, 1, "8 8 9 ", threads=[70, 71])
    proc.process(8, 7, "7 ")  # no kernel says so
    found = figures_of_programs(7)  # 9 has ended
    assert (found.memory, found.jail) == (2 * PAGE, "seccomp")
    assert figures_of_programs(9).memory == 0


def test_a_number_that_was_given_again_is_not_counted(proc):
    """A child has ended since its number was read; another user's has it now."""
    proc.process(7, 1, "8 ")
    proc.process(8, 1, "9 ", pages=5000)
    proc.process(9, 8, pages=5000)
    assert figures_of_programs(7).memory == PAGE


@pytest.mark.parametrize("many", ["processes", "threads"])
def test_a_sandbox_of_many_programs_costs_no_more_than_the_limit(
    proc, monkeypatch, many
):
    monkeypatch.setattr(program_memory, "PROGRAM_FILES", 20)
    opened = []
    numbers = range(8, 108)
    if many == "processes":
        proc.process(7, 1, " ".join(map(str, numbers)))
        for number in numbers:
            proc.process(number, 7)
    else:
        proc.process(7, 1, "500 ", threads=numbers)
        proc.process(500, 7)
    read = program_memory._read

    def counted(name, directory):
        opened.append(name)
        return read(name, directory)

    monkeypatch.setattr(program_memory, "_read", counted)
    assert 0 < figures_of_programs(7).memory < 100 * PAGE
    # A process is two files, and each of its threads one.
    assert len(opened) <= 2 * 20 < PROGRAM_FILES


def test_a_sandbox_of_many_programs_takes_no_more_than_its_time(proc, monkeypatch):
    """The kernel prints some files of a hostile process slowly."""
    now = itertools.count(0, PROGRAM_SECONDS / 10)
    monkeypatch.setattr(program_memory.time, "monotonic", lambda: next(now))
    numbers = range(8, 108)
    proc.process(7, 1, " ".join(map(str, numbers)))
    for number in numbers:
        proc.process(number, 7)
    assert 2 * PAGE < figures_of_programs(7).memory < 12 * PAGE


async def test_programs_that_end_slowly_hold_up_no_other_figure(monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(host_status, "figures_of_programs", lambda _pid: ended.wait(60))
    rows = HostRows(role_with((PROGRAMS, 1), ("acceptor", os.getpid())), dict, list)
    try:
        for _ in range(3):
            found = {}
            with trio.move_on_after(1):
                await host_status.measure(rows.processes(), found)
            assert os.getpid() in found
    finally:
        ended.set()
