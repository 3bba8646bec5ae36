"""Two thousand disposables start and end under one broker, which holds no more after them.

VITRAIL_LIFE_DISPOSABLES gives another number.
"""

from __future__ import annotations

import os
import shutil

import pytest
import trio

from tests.kit.brokerctl import brokerctl
from tests.kit.world import world
from tests.life.counts import counted
from tests.life.life import RECORD

_ASKED = os.environ.get("VITRAIL_LIFE_DISPOSABLES")
_OF_A_PART = 160
"""Where a run of the long tests must end."""
_COUNT = int(_ASKED or (_OF_A_PART if "VITRAIL_LONG_UNTIL" in os.environ else 2000))
_LOT = max(1, _COUNT // 8)
"""After so many the broker is counted; the first lot fills its caches."""
_AT_ONCE = 4
_A_WINDOW_EACH = 5
"""Every fifth one shows a window, which ends at once."""
_SECONDS = 300 + 3 * _COUNT
_AUTHORITY = "authority"

pytestmark = [
    pytest.mark.long,
    pytest.mark.alone,
    pytest.mark.timeout(_SECONDS),
    pytest.mark.skipif(
        not all(map(shutil.which, ("bwrap", "foot", "waypipe"))),
        reason="needs bwrap foot waypipe",
    ),
]


async def test_a_broker_holds_nothing_of_thousands_of_disposables():
    records = {"notes": RECORD.format(kind="disposable")}
    async with world(records, image=False) as w:
        limit = trio.CapacityLimiter(_AT_ONCE)

        async def one(number):
            program = ("true",) if number % _A_WINDOW_EACH else ("foot", "true")
            words = ("run", "-q", "notes", "--", *program)
            async with limit:
                answer = await brokerctl(*words, env=w.environ)
            assert answer.code == 0, (number, answer)

        first = None
        for begin in range(0, _COUNT, _LOT):
            lot = range(begin, min(begin + _LOT, _COUNT))
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for number in lot:
                    nursery.start_soon(one, number)
            took = trio.current_time() - began
            now = await counted(w)
            print(f"{lot[-1] + 1} disposables: {_told(now)}, {took:.0f} s", flush=True)
            first = first or now
        grown = first.grown(now)
        print(f"after the first {_LOT}:", first, "\nat the end:", now, sep="\n")
        assert not grown
        assert len(w.events("lease.end")) == _COUNT


def _told(now):
    """Say what the authority has, and the memory and descriptors of the others."""
    others = now.memory.keys() - {_AUTHORITY}
    held = sum(sum(now.descriptors[role].values()) for role in others)
    return (
        f"authority {now.memory[_AUTHORITY] / 2**20:.1f} MiB anonymous, "
        f"table of {now.descriptors[_AUTHORITY]['table']} descriptors, "
        f"{now.threads[_AUTHORITY]} threads; "
        f"others {sum(now.memory[role] for role in others) / 2**20:.1f} MiB, "
        f"{held} descriptors, {sum(now.threads[role] for role in others)} threads; "
        f"{sum(now.processes.values())} processes, {len(now.files)} files"
    )
