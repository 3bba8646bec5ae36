"""The fuzz target itself: its seeds go all the way, and a short run of it."""

from __future__ import annotations

import pytest

from fuzz import messages as target


def test_the_seeds_are_messages():
    outcomes = [target.run_one(data) for data in target.seeds()]
    assert all(": deep" in outcome for outcome in outcomes)
    assert {outcome.partition(":")[0] for outcome in outcomes} == {
        door.__name__ for door in target.DOORS
    }


@pytest.mark.parametrize("seed", range(2))
def test_half_a_second_of_fuzzing(seed):
    """Nothing is raised."""
    assert sum(target.fuzz(0.5, seed, None).values()) > 30
