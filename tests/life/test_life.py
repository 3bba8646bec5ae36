"""A broker lives while its user works and the world around it changes.

On a machine of the test's own (``changing_machine``).  Changes and tasks are drawn in an
order of a seed: of the long lives the day's number, so that a slow machine, which has
time for some of the changes, has others each day.  VITRAIL_LIFE_SEED gives another one,
VITRAIL_LIFE_SECONDS another time (``test_as_long_as_asked``).
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from contextlib import contextmanager

import pytest
import trio

from tests.kit.changing_machine import NEEDS, inside, own_machine
from tests.kit.cleaner import NEEDS_CLEANER
from tests.kit.needs import PID_NAMESPACES
from tests.kit.sound.servers import needs
from tests.life.changes import CHANGES
from tests.life.counts import counted
from tests.life.life import life
from tests.life.tasks import TASKS

_PROGRAMS = (
    "bwrap",
    "mako",
    "dbus-daemon",
    "notify-send",
    "waypipe",
    "foot",
    "wl-copy",
    "ip",
    "passt",
)
pytestmark = [
    NEEDS,
    PID_NAMESPACES,
    NEEDS_CLEANER,
    pytest.mark.skipif(
        not all(map(shutil.which, _PROGRAMS)), reason=f"needs {' '.join(_PROGRAMS)}"
    ),
]
SECONDS = "VITRAIL_LIFE_SECONDS"
SEED = "VITRAIL_LIFE_SEED"
_LIVES = float(os.environ.get(SECONDS, "180"))
_SHORT = 80
_TOGETHER = 3
"""In a life that short: so many changes are made before all tasks are tried again.

A round of tasks takes longer than most changes.  The long lives have a round for each.
"""
_SAME = 66
"""The seed of a life that short: 'make test' finds the same on two days."""
_NONE_MADE = "the machine is too slow: no change and its tasks fit into the time"
_ROUND_AND_END = 1.4
"""After a change: a round of all tasks, and some of a round's time to count and to end."""
_SPARE = 1.3
"""How much slower the machine may become."""
_WITH_MACHINE = 1200
"""Seconds of a life in which an emulated machine can boot."""
_ONLY = os.environ.get("VITRAIL_LIFE_CHANGES", "")
"""Words of the changes that are made, with commas between; empty: all."""
_ASKED_FOR_MACHINE = "micro VM" in _ONLY


_PART = 200
_HALF_AN_HOUR = _PART if "VITRAIL_LONG_UNTIL" in os.environ else 1800
"""Where a run of the long tests must end, a part of it."""


def _limit(seconds):
    """Seconds of the test: also to begin, to end, and for the last change's tasks."""
    more = 400 if seconds <= _SHORT else 300 if seconds <= _PART else 900
    return seconds + more


_MACHINE_SECONDS = 20
"""For the machine and pytest to begin and end around the life."""
_LAST_LINES = 80
_outside = pytest.mark.skipif(inside(), reason="is on a machine of its own already")


def lives(seconds):
    """Run the test of the life on a machine of its own."""
    needs("pulseaudio")
    os.environ[SECONDS] = str(seconds)
    argv = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]
    argv += ["-p", "no:rerunfailures"]  # a second attempt is a whole life more
    argv += [__file__, "-k", "test_a_life"]
    limit = _limit(seconds) + _MACHINE_SECONDS
    done = own_machine(*argv, seconds=limit, network=True, follow=True)
    if _NONE_MADE in done.stdout:
        pytest.skip(_NONE_MADE)
    # A report of a second attempt has no output of the first, only its error.
    assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-_LAST_LINES:])
    assert "1 passed" in done.stdout


@_outside
@pytest.mark.timeout(_limit(_SHORT) + 2 * _MACHINE_SECONDS)
def test_two_minutes():
    lives(_SHORT)


@_outside
@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(_limit(1800) + 2 * _MACHINE_SECONDS)
def test_half_an_hour():
    lives(_HALF_AN_HOUR)


@_outside
@pytest.mark.skipif(SECONDS not in os.environ, reason=f"by hand: {SECONDS} is not set")
@pytest.mark.timeout(_limit(_LIVES) + 2 * _MACHINE_SECONDS)
def test_as_long_as_asked():
    lives(_LIVES)


def _today():
    """Return the day's number, an order that is another one each day."""
    return time.time() // 86400


@pytest.mark.skipif(not inside(), reason="only on a machine of its own")
@pytest.mark.timeout(_limit(_LIVES))
async def test_a_life():
    seed = int(os.environ.get(SEED) or (_SAME if _LIVES <= _SHORT else _today()))
    draw = random.Random(seed)
    print(f"seed {seed}, {_LIVES:g} s")
    end = trio.current_time() + _limit(_LIVES)
    number = 0
    machine = _LIVES >= _WITH_MACHINE or _ASKED_FOR_MACHINE
    async with life(machine=machine) as made:
        # Caches of the first time are no growth.
        round_seconds = max([await lived(made, draw) for _ in range(2)])
        possible = _possible(made)
        before = await counted(made.w)
        until = trio.current_time() + _LIVES
        changes = []
        while trio.current_time() < until:
            if not changes:
                await unchanged(made, before)
                changes = draw.sample(possible, len(possible))
            began, before_these = trio.current_time(), number
            for _ in range(_TOGETHER if _LIVES <= _SHORT else 1):
                left = end - trio.current_time()
                change = fitting(changes, round_seconds, left)
                if change is None:
                    break
                changes.remove(change)
                await changed(made, change)
                number += 1
            if number == before_these:
                print(f"no time is left for: {'; '.join(c.name for c in changes)}")
                break
            round_seconds = max(round_seconds, await lived(made, draw))
            print(f"  lived {trio.current_time() - began:.1f} s", flush=True)
        await unchanged(made, before)
    if not number:
        print(_NONE_MADE)  # read by 'lives'


def fitting(changes, round_seconds, left):
    """Return the last change after which all tasks and the end fit into the time left.

    ``round_seconds``: the slowest round of all tasks so far.
    """
    for change in reversed(changes):
        rounds = change.rounds + _ROUND_AND_END
        if change.seconds + _SPARE * rounds * round_seconds <= left:
            return change
    return None


def _possible(made):
    """Return the changes that this machine can make; print those that are left out."""
    found = []
    for change in CHANGES:
        if not any(word in change.name for word in _ONLY.split(",")):
            continue
        if missing := change.lacks(made):
            print(f"left out: {change.name}: {missing}", flush=True)
        else:
            found.append(change)
    return found


async def changed(made, change):
    """Make a change; print how long it took, or that it failed."""
    began = trio.current_time()
    with named(change.name):
        await change.does(made)
    print(f"change: {change.name} ({trio.current_time() - began:.1f} s)", flush=True)


@contextmanager
def named(what):
    """Print and note in an error which task or change of the life it is from."""
    try:
        yield
    except Exception as error:
        print(f"failed: {what}", flush=True)
        error.add_note(f"of the life: {what}")
        raise


async def unchanged(made, before):
    """Print what the broker holds; nothing of it has grown."""
    after = await counted(made.w)
    for one in (before, after):
        print(f"{one.processes} {one.descriptors} {one.threads}", flush=True)
        print(f"memory {one.memory}, files {len(one.files)}", flush=True)
    assert not before.grown(after)


async def lived(made, draw):
    """Do all that a user does in a day, in some order; return how long it took."""
    start = trio.current_time()
    for task in draw.sample(TASKS, len(TASKS)):
        began = trio.current_time()
        with named(task.name):
            await task.does(made)
        print(f"    {task.name} {trio.current_time() - began:.1f}", flush=True)
    with named("what is still there"):
        await made.still_there()
    return trio.current_time() - start
