"""The fuzz target itself: its seeds go all the way, and a short run of it."""

from __future__ import annotations

import time

import pytest

from fuzz import policy as target
from policy.tools.files_in_memory import rules_of_map


def test_the_seeds_reach_the_inside_of_every_door():
    """Each door has an input that it takes."""
    outcomes = [target.run_one(data) for data in target.seeds()]
    for door in target.DOORS:
        assert any(o.startswith(f"{door.__name__}: deep") for o in outcomes), (
            door.__name__
        )


@pytest.mark.parametrize("seed", range(2))
def test_a_second_of_fuzzing(seed):
    """Nothing is raised."""
    assert sum(target.fuzz(1.0, seed, None).values()) > 30


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * (1 << 20), id="a line of a mebibyte"),
        pytest.param(" " * (1 << 20) + "\n" * 1000, id="blanks"),
        pytest.param("\0" * 100_000, id="NUL"),
        pytest.param("a * b c deny\n" * 100_000, id="100,000 rules"),
        pytest.param("a * b c alow x=\n" * 20_000, id="20,000 errors"),
        pytest.param("!include 10-a.policy\n" * 5000, id="5,000 cycles"),
        pytest.param("a * b c allow " + "x=1 " * 1000, id="1,000 keys"),
        pytest.param("a * b c allow host=" + "a," * 1500, id="1,500 hosts"),
    ],
)
def test_large_inputs_end_soon(text):
    """Within seconds on a busy machine; none is quadratic."""
    begin = time.process_time()
    rules_of_map({"10-a.policy": text})
    assert time.process_time() - begin < 20
