"""Each guard of the wire is there, and is missed when it is not."""

from __future__ import annotations

import os

import pytest

from tests.kit.wayland_guards import ROOT, missed
from tests.kit.waypipe_guards import GUARDS


@pytest.mark.parametrize("guard", GUARDS, ids=lambda g: g.name)
def test_the_table_names_source_that_exists_once(guard):
    assert (ROOT / guard.file).read_text().count(guard.source) == 1
    assert (ROOT / guard.test).is_file()


def test_names_are_used_once():
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)


@pytest.mark.long
@pytest.mark.skipif(
    not os.environ.get("VITRAIL_MUTATE"),
    reason="minutes by itself: 'make mutate' runs it",
)
@pytest.mark.timeout(1800)
async def test_no_guard_can_go_unnoticed():
    assert await missed([], GUARDS) == []
