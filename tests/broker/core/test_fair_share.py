"""Places that several share: whoever has none finds one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.core.fair_share import may_take


@given(st.integers(2, 64), st.lists(st.integers(0, 3), max_size=200))
def test_one_that_has_none_finds_a_place_beside_few_that_take_all(most, askers):
    held = Counter()
    for asker in askers:
        if may_take(held[asker], held.total(), most):
            held[asker] += 1
    assert held.total() <= most
    if len(+held) < most.bit_length() - 1:
        assert may_take(0, held.total(), most)


def test_alone_it_takes_half():
    taken = 0
    while may_take(taken, taken, 16):
        taken += 1
    assert taken == 8
    assert may_take(0, 0, 1)
    assert not may_take(0, 1, 1)
