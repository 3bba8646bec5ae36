"""A machine is stopped before the file system of its home is full, and then runs again."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from broker.core import limits
from broker.host.homes import home_room
from broker.host.homes.home_room import HomeRooms, HomeSpace

MIB = 1 << 20
RESERVE = limits.HOME_RESERVE_BYTES // MIB


class Machine:
    """A machine that records its stops, and ends after the last look."""

    ending = False

    def __init__(self):
        self.stops = []

    def stop_for(self, shortage):
        self.stops.append(bool(shortage))


@pytest.fixture
def watched(monkeypatch):
    """Return the stops, reports and times between looks for these free amounts in MiB.

    ``grows``: whether the disk is larger at each look; ``rooms``: those of others, too.
    """

    async def watch(*free, grows=True, rooms=None):
        machine, reports, times = Machine(), [], []
        amounts = list(free)

        async def look(_function, _path):
            await trio.lowlevel.checkpoint()
            times.append(trio.current_time())
            amount = amounts.pop(0)
            machine.ending = not amounts
            if isinstance(amount, Exception):
                raise amount
            size = len(times) * MIB if grows else MIB
            return HomeSpace(7, amount * MIB, size)

        monkeypatch.setattr(home_room, "in_thread", look)
        await (rooms or HomeRooms()).watch(
            machine, Path("/homes/work/current/disk"), reports.append
        )
        pauses = [end - start for start, end in pairwise(times)]
        return machine.stops, reports, pauses

    return watch


async def test_machine_stopped_below_the_reserve_until_there_is_half_more(
    watched, autojump_clock
):
    stops, reports, _ = await watched(
        9000, RESERVE, RESERVE - 1, 0, RESERVE, RESERVE * 3 // 2, 9000, 9000
    )
    assert stops == [True, False]
    assert f"has {RESERVE - 1} MiB left" in reports[0]
    assert f"until {RESERVE * 3 // 2 + 1} MiB are free" in reports[0]
    assert "/homes/work/current" in reports[0]
    assert reports[1:] == [""]


async def test_machine_on_a_full_disk_starts_with_half_of_the_room(
    watched, autojump_clock
):
    stops, _, _ = await watched(40, 21, 20, 19, 29, 30, 30)
    assert stops == [True, False]


async def test_looks_more_often_the_fewer_bytes_are_free(watched, autojump_clock):
    _, _, pauses = await watched(1 << 20, 1 << 20, RESERVE + 2048, RESERVE + 1, 1, 1, 1)
    assert pauses == pytest.approx([0, 5, 1, 0.05, 5, 5], abs=0.01)


async def test_machine_that_ends_is_not_stopped(watched, autojump_clock):
    assert (await watched(9000, 1))[:2] == ([], [])


async def test_file_system_that_cannot_be_examined_stops_nothing(
    watched, autojump_clock, capfd
):
    stops, reports, _ = await watched(9000, OSError(5, os.strerror(5)), 1, 1)
    assert (stops, reports) == ([], [])
    assert "cannot examine the file system of /homes/work" in capfd.readouterr().err


async def test_machine_that_writes_nothing_runs_on(watched, autojump_clock):
    """Another sandbox has filled the disk: it would stop all machines."""
    assert (await watched(9000, 9000, 1, 1, 1, grows=False))[:2] == ([], [])


async def test_smallest_reserve_counts_for_all_machines_of_a_disk(
    watched, autojump_clock
):
    """A machine started on a fuller disk would fill it and run, while others stop."""
    rooms = HomeRooms()
    rooms._reserves[7].append(40 * MIB)
    stops, _, _ = await watched(9000, 41, 41, 41, rooms=rooms)
    assert stops == []
    stops, _, _ = await watched(9000, 41, 39, 39, rooms=rooms)
    assert stops == [True]
    assert rooms._reserves[7] == [40 * MIB]
