"""The fuzz target itself: its seeds go all the way, and a short run of it."""

from __future__ import annotations

import pytest

from fuzz import link


def test_the_seeds_reach_the_inside_of_every_door():
    outcomes = [link.run_one(data) for data in link.seeds()]
    for door in link.DOORS:
        mine = [o for o in outcomes if o.startswith(f"{door.__name__}: deep")]
        assert mine, door.__name__
    assert any("handshake: deep done" in o for o in outcomes)
    assert any("pairing: deep done" in o for o in outcomes)
    assert any("answer taken" in o for o in outcomes)


@pytest.mark.parametrize("seed", range(2))
def test_a_second_of_fuzzing(seed):
    outcomes = link.fuzz(1.0, seed, None)
    assert sum(outcomes.values()) > 50
