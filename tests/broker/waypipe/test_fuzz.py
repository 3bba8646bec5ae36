"""The fuzz target, shortly here and for a million inputs in the long tests."""

from __future__ import annotations

import os
import resource

import pytest

from fuzz import waypipe as target


def test_mutated_streams_end_in_events_or_refusals():
    ends = target.fuzz(seed=1, seconds=30, inputs=1500)
    assert ends["connections"] > 100
    assert ends["blocks"] > ends["connections"]
    assert ends["end: still open"]
    assert len(ends) > 10, "the mutations reach too little"


@pytest.mark.long
def test_a_million_inputs():
    """Without growth: what one stream held is gone with it."""
    target.fuzz(seed=2, seconds=10, inputs=20_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs = int(os.environ.get("VITRAIL_FUZZ_INPUTS", "1000000"))
    ends = target.fuzz(seed=3, seconds=280, inputs=inputs)
    kinds = sum(name.startswith("end: ") for name in ends)
    print(f"{ends['connections']} inputs, {kinds} kinds of ends")
    assert ends["connections"] > inputs // 10
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 32 * 1024, "KiB"
