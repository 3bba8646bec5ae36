"""Every call of every process of a broker fails once: one stream or one start ends.

A sandbox can use up what the kernel counts for its user (epoll entries, descriptors in
flight, processes, memory), so any call of any process may fail at any moment.
"""

from __future__ import annotations

import random
import time

import pytest

from tests.kit.faults.first_light import all_faults, first_light
from tests.kit.faults.plan import Fault
from tests.kit.needs import PID_NAMESPACES

pytestmark = PID_NAMESPACES

SAMPLE = 24
FOUND = (
    Fault("vitrail-author", "recv", 1, "ENOMEM"),
    Fault("vitrail-author", "send", 3, "ENOMEM"),
    Fault("broker", "recv", 3, "ENOMEM"),
    Fault("broker", "send", 4, "ENOMEM"),
    Fault("vitrail-accept", "poll", 1, "ENOMEM"),
    Fault("vitrail-accept", "recvmsg", 1, "ENOMEM"),
    Fault("vitrail-accept", "sendmsg", 1, "ENOMEM"),
    Fault("vitrail-accept", "write", 1, "ENOSPC"),
)
"""Faults that ended a supervisor once."""


async def judge(faults):
    """Try each; a broker that was harmed is replaced by a fresh one."""
    failed = {}
    waiting = list(faults)
    while waiting:
        async with first_light() as light:
            while waiting:
                fault = waiting.pop()
                if problems := await light.problems(fault):
                    failed[str(fault)] = problems
                    break
    assert failed == {}


async def test_faults_that_ended_a_supervisor_end_none():
    await judge(FOUND)


async def test_a_sample_of_faults_ends_one_start_at_most():
    """Another sample each day, which the output names."""
    day = int(time.time() // 86400)
    known = await all_faults()
    print(f"day {day}, of {len(known)}")
    await judge(random.Random(day).sample(known, SAMPLE))


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_every_fault_ends_one_start_at_most():
    known = await all_faults()
    assert len(known) > 600
    await judge(known)
