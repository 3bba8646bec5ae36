"""The fuzz target itself: its seeds go all the way, and a short run of it."""

from __future__ import annotations

import random

import pytest

from fuzz import transfer as target


def test_the_seeds_reach_the_inside_of_every_door():
    """Each door has an input that it takes."""
    outcomes = [target.run_one(data) for data in target.seeds()]
    for door in target.DOORS:
        mine = [o for o in outcomes if o.startswith(f"{door.__name__}: deep")]
        assert mine, door.__name__
    assert "door_entries: deep kept 2" in outcomes
    asks = {o.split()[-1] for o in outcomes if o.startswith("door_asks: deep")}
    assert len(asks) == 8


@pytest.mark.parametrize("seed", range(2))
def test_a_second_of_fuzzing(seed):
    """Nothing is raised."""
    assert sum(target.fuzz(1.0, seed, None).values()) > 30


@pytest.mark.parametrize("body", [b'["a", "b"]', b"{}", b"7", b"no JSON", b"\xff"])
def test_what_an_earlier_mutation_left_is_mutated_again(body):
    """The corpus keeps inputs that are not messages any more."""
    assert target._other_value(random.Random(1), body) == body
