"""Processor time of sandboxes, counted over their processes and what these have started."""

from __future__ import annotations

import os
import subprocess

import pytest

from broker.cli.manager.processor import (
    _TICKS,
    ProcessorLoad,
    ProcessTime,
    parse_stat,
    read_times,
)

BOX = {"box": frozenset({10, 99})}


def stat(name: bytes) -> bytes:
    figures = b"R 5 1 1 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 9 0 0"
    return b"7 (" + name + b") " + figures


@pytest.mark.parametrize("name", [b"sh", b"a) R 1 (b", b"\xff\n) Z 0 9"])
def test_the_name_of_a_process_is_no_figure(name):
    assert parse_stat(stat(name)) == ProcessTime(5, 127)


def test_this_process_and_its_child_are_read():
    child = subprocess.Popen(["sleep", "100"])
    try:
        times = read_times()
    finally:
        child.kill()
        child.wait()
    assert times[child.pid].parent == os.getpid()
    assert times[os.getpid()].ticks > 0


def test_a_share_needs_two_samples_and_counts_descendants():
    load = ProcessorLoad()
    times = {1: ProcessTime(0, 5000), 10: ProcessTime(1, 50), 11: ProcessTime(10, 0)}
    assert load.sample(BOX, times, 100.0) == {}
    times[11] = ProcessTime(10, _TICKS)
    times[12] = ProcessTime(11, _TICKS)  # has just begun
    times[1] = ProcessTime(0, 99999)  # not the box's
    assert load.sample(BOX, times, 104.0) == {"box": 50}
    assert load.sample(BOX, times, 108.0) == {"box": 0}


def test_a_process_that_takes_its_ticks_with_it_is_no_negative_share():
    load = ProcessorLoad()
    load.sample(BOX, {10: ProcessTime(1, 5), 99: ProcessTime(1, 900)}, 100.0)
    assert load.sample(BOX, {10: ProcessTime(1, 5)}, 103.0) == {"box": 0}


def test_the_share_of_a_time_that_the_list_was_hidden_is_not_shown():
    load = ProcessorLoad()
    load.sample(BOX, {10: ProcessTime(1, 5)}, 100.0)
    assert load.sample(BOX, {10: ProcessTime(1, 9000)}, 200.0) == {}
    assert load.sample(BOX, {10: ProcessTime(1, 9000 + _TICKS)}, 210.0) == {"box": 10}
