"""The fuzz target itself, for a moment: long runs are in ``test_fuzz_parts.py``."""

from __future__ import annotations

import gc

from fuzz import waypipe as target


def test_mutated_streams_end_in_events_or_refusals():
    # The target counts this process's descriptors: those in garbage of earlier tests
    # would be closed meanwhile.
    gc.collect()
    ends = target.fuzz(seed=1, seconds=30, inputs=1500)
    assert ends["connections"] > 100
    assert ends["blocks"] > ends["connections"]
    assert ends["end: still open"]
    assert len(ends) > 10, "the mutations reach too little"
