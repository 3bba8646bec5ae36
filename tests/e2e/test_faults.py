"""Every call of every process of a broker fails once: one stream or one start ends.

A sandbox can use up what the kernel counts for its user (epoll entries, descriptors in
flight, processes, memory), so any call of any process may fail at any moment.
"""

from __future__ import annotations

import random

import pytest

from tests.kit.faults.first_light import all_faults, first_light
from tests.kit.faults.plan import Fault
from tests.kit.needs import PID_NAMESPACES

pytestmark = PID_NAMESPACES

ROLES = frozenset(
    {
        *(
            "broker",
            "vitrail-author",
            "vitrail-host",
            "vitrail-pump",
            "vitrail-helpers",
        ),
        *("vitrail-keeper", "vitrail-forks", "vitrail-worker", "vitrail-accept"),
    }
)
"""Processes that work for a window's first picture, by the first letters of a name."""
FOUND = (
    Fault("vitrail-author", "recv", 1, "ENOMEM"),
    Fault("vitrail-author", "send", 3, "ENOMEM"),
    Fault("broker", "recvmsg", 10, "ENOMEM"),
    Fault("broker", "recvmsg", 13, "ENOMEM"),
    Fault("broker", "recv", 3, "ENOMEM"),
    Fault("broker", "send", 4, "ENOMEM"),
    Fault("broker", "dupfd", 34, "ENOMEM"),
    Fault("vitrail-helpers", "poll", 1, "ENOMEM"),
    Fault("vitrail-helpers", "recvmsg", 1, "ENOMEM"),
    Fault("vitrail-helpers", "sendmsg", 1, "ENOMEM"),
    Fault("vitrail-helpers", "write", 1, "ENOSPC"),
)
"""Faults that ended a supervisor once, or a door of a sandbox, or left its directory."""


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


@pytest.mark.timeout(420)
@pytest.mark.parametrize("half", [0, 1])
async def test_each_call_of_each_process_ends_one_start_at_most(half):
    """Each fails once, at the same times in each run: a change is judged by itself.

    All times are in the long test.
    """
    dice = random.Random(1)
    known = await all_faults()
    calls: dict[tuple[str, str], list[Fault]] = {}
    for fault in known:
        calls.setdefault((fault.role, fault.call), []).append(fault)
    print(f"{len(calls)} calls, of {len(known)} faults")
    assert {role for role, _ in calls} >= ROLES
    await judge([dice.choice(each) for each in calls.values()][half::2])


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_every_fault_ends_one_start_at_most():
    known = await all_faults()
    assert len(known) > 600
    await judge(known)
