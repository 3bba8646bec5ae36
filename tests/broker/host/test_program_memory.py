"""The memory of a box's programs, which ``brokerctl status`` and the manager show."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from broker.core import process_status
from broker.core.limits.machines import PROGRAM_FILES
from broker.core.names import SandboxName
from broker.helpers.process.memory import read_memory
from broker.host import program_memory
from broker.host.host_status import HostRows
from broker.host.machine_interface import PROGRAMS
from broker.host.program_memory import figures_of_programs
from broker.host_and_viewer.measured_rows import with_memory

MIB = 1 << 20
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


@dataclass
class Machine:
    facts: object


async def test_the_row_of_a_sandboxs_first_process_has_the_memory_of_all(box):
    @dataclass
    class Facts:
        processes = ((PROGRAMS, box.pid), ("acceptor", os.getpid()))

    @dataclass
    class Lease:
        sandbox = SandboxName("work")

    @dataclass
    class Active:
        lease = Lease()
        machine = Machine(Facts())

    class Role:
        def active_leases(self):
            return [Active()]

    rows = HostRows(Role(), dict, list)
    first, acceptor = await with_memory(rows.processes(), rows.measure)
    assert (first.role, first.sandbox) == ("programs", "work")
    assert 120 * MIB < first.memory < 200 * MIB
    assert acceptor.memory == pytest.approx(
        read_memory(os.getpid()).proportional, rel=0.5
    )


class Proc:
    """A false /proc."""

    def __init__(self, root):
        self._root = root

    def process(self, pid, parent, children="", anonymous=1, threads=()):
        status = f"Name:\tRssAnon: 9 kB\nPPid:\t{parent}\nRssAnon:\t{anonymous} kB\n"
        status += "RssFile:\t900 kB\nRssShmem:\t2 kB\nSeccomp:\t2\n"
        for thread in (pid, *threads):
            (self._root / f"{pid}/task/{thread}").mkdir(parents=True)
        (self._root / f"{pid}/task/{pid}/children").write_text(children)
        (self._root / f"{pid}/status").write_text(status)


@pytest.fixture
def proc(tmp_path, monkeypatch):
    monkeypatch.setattr(program_memory, "_PROC", tmp_path)
    monkeypatch.setattr(process_status, "_PROC", tmp_path)
    return Proc(tmp_path)


def test_memory_without_mapped_files_is_counted_once_for_each_process(proc):
    proc.process(7, 1, "8 8 9 ")
    proc.process(8, 7, "7 ")  # no kernel says so
    found = figures_of_programs(7)  # 9 has ended
    assert (found.memory, found.jail) == (6 << 10, "seccomp")
    assert figures_of_programs(9).memory == 0


def test_a_number_that_was_given_again_is_not_counted(proc):
    """A child has ended since its number was read; another user's has it now."""
    proc.process(7, 1, "8 ")
    proc.process(8, 1, "9 ", anonymous=5000)
    proc.process(9, 8, anonymous=5000)
    assert figures_of_programs(7).memory == 3 << 10


@pytest.mark.parametrize("many", ["processes", "threads"])
def test_a_sandbox_of_many_programs_costs_no_more_than_the_limit(
    proc, monkeypatch, many
):
    monkeypatch.setattr(program_memory, "PROGRAM_FILES", 20)
    opened = []

    def counted(pid):
        opened.append(pid)
        return process_status.status_fields(pid)

    read = program_memory._children_of_thread
    monkeypatch.setattr(program_memory, "status_fields", counted)
    monkeypatch.setattr(
        program_memory,
        "_children_of_thread",
        lambda path: opened.append(path) or read(path),
    )
    numbers = range(8, 108)
    if many == "processes":
        proc.process(7, 1, " ".join(map(str, numbers)))
        for number in numbers:
            proc.process(number, 7)
    else:
        proc.process(7, 1, "500 ", threads=numbers)
        proc.process(500, 7)
    assert 0 < figures_of_programs(7).memory < 100 << 10
    assert len(opened) <= 20 < PROGRAM_FILES
