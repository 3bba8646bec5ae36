"""No legal order of a program ends a compositor that stands behind the filter.

Each game prints its seed; ``python -m tests.kit.wayland.player KIND --seed=N`` plays it
again, ``--direct`` without the filter.
"""

from __future__ import annotations

import random

import pytest

from tests.kit.wayland.player import KINDS, verdict

SECONDS = 60.0


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
async def test_random_legal_orders_end_no_compositor(kind):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    assert await verdict(kind, seed, SECONDS) is None
