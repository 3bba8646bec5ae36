"""The kernel's count of a process's memory."""

from __future__ import annotations

import os
import subprocess

import pytest

from broker.helpers.process.memory import ProcessMemory, parse_rollup, read_memory


def test_sizes_are_bytes_and_the_line_of_addresses_is_none():
    text = (
        "55d0a0000000-7ffd10000000 ---p 00000000 00:00 0    [rollup]\n"
        "Rss:    20 kB\nPss:    7 kB\nPss_Anon:    5 kB\nShared_Clean:    1 kB\n"
        "Private_Clean:    2 kB\nPrivate_Dirty:    3 kB\n"
    )
    found = ProcessMemory(resident=20 * 1024, private=5 * 1024, proportional=7 * 1024)
    assert parse_rollup(text) == found


@pytest.mark.parametrize("text", ["", "0-0 ---p 0 00:00 0 [rollup]\n"])
def test_a_process_without_memory_has_none(text):
    assert parse_rollup(text) == ProcessMemory()


def test_our_own_memory_and_that_of_a_process_that_ended():
    own = read_memory(os.getpid())
    assert own.resident >= own.proportional >= own.private > 0
    child = subprocess.Popen(["true"])
    child.wait()
    assert read_memory(child.pid) == ProcessMemory()
