"""Millions of inputs for each untrusted door, in parts that one test can play.

An ordinary long run plays ``PARTS`` parts of each fuzz target; VITRAIL_FUZZ_PARTS=40
plays ten million inputs of each, in some hours.  The seed of a part is its number, so a
finding is played again by its part alone.  Coverage is printed by the targets
themselves (``python -m fuzz.TARGET --inputs N``): measuring it takes several times as
long.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable

import pytest

from fuzz import (
    link,
    messages,
    minimal_agent,
    policy,
    port_mux,
    pulse,
    transfer,
    wayland,
    waypipe,
)
from fuzz.runner import GROWN, Admission

PART = 250_000
"""Inputs of a part: a minute or two of an idle processor."""
PARTS = int(os.environ.get("VITRAIL_FUZZ_PARTS", "2"))
_ALWAYS = math.inf
"""The number of inputs ends a part, and never a time: machines differ."""
_GROWTH_KIB = 32 * 1024


def _doors(target: Admission) -> Callable[[int], int]:
    return lambda seed: target.fuzz(_ALWAYS, seed, None, PART).total()


def _wayland(seed: int) -> int:
    ends = wayland.fuzz(seconds=_ALWAYS, messages=PART, seed=seed)
    assert ends[GROWN] < _GROWTH_KIB
    return ends["messages"]


def _pulse(seed: int) -> int:
    ends = pulse.fuzz(seconds=_ALWAYS, limit=PART, seed=seed)
    assert ends[GROWN] < _GROWTH_KIB
    return ends["frames"]


def _waypipe(seed: int) -> int:
    """Its inputs are whole streams, of seven blocks on average."""
    ends = waypipe.fuzz(seconds=_ALWAYS, inputs=PART // 5, seed=seed)
    assert ends[GROWN] < _GROWTH_KIB
    return ends["blocks"]


def _port_mux(seed: int) -> int:
    done = port_mux.play(seconds=1 << 30, seed=seed, steps=PART)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["steps"]


def _minimal_agent(seed: int) -> int:
    """Its inputs are sessions, of 30 messages on average."""
    done = minimal_agent.play(seconds=1 << 30, seed=seed, sessions=PART // 25)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["messages"]


TARGETS: dict[str, Callable[[int], int]] = {
    "link": _doors(link.TARGET),
    "messages": _doors(messages.TARGET),
    "minimal_agent": _minimal_agent,
    "policy": _doors(policy.TARGET),
    "port_mux": _port_mux,
    "pulse": _pulse,
    "transfer": _doors(transfer.TARGET),
    "wayland": _wayland,
    "waypipe": _waypipe,
}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_part_of_the_inputs_of_a_door(target, part):
    played = TARGETS[target](part)
    print(f"{target}, part {part}: {played} inputs")
    assert played >= PART
