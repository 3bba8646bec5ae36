"""The fuzz target, shortly here and for a million inputs in the long tests."""

from __future__ import annotations

import os
import resource

import pytest

from fuzz import waypipe as target


def test_mutated_streams_end_in_events_or_refusals():
    count, blocks, ends = target.run(seed=1, seconds=3, inputs=1500)
    assert count > 100
    assert blocks > count
    assert ends["still open"]
    assert len(ends) > 10, "the mutations reach too little"


@pytest.mark.long
def test_a_million_inputs():
    """Without growth: what one stream held is gone with it."""
    target.run(seed=2, seconds=10, inputs=20_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs = int(os.environ.get("VITRAIL_FUZZ_INPUTS", "1000000"))
    count, _, ends = target.run(seed=3, seconds=280, inputs=inputs)
    print(f"{count} inputs, {len(ends)} kinds of ends")
    assert count > inputs // 10
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 32 * 1024, "KiB"
