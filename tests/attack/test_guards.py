"""Each guard of each room is there, and is missed when it is not."""

from __future__ import annotations

import os

import pytest

from tests.kit.guards import (
    audit,
    clipboard,
    link,
    pulse,
    rules,
    transfer,
    wayland,
    waypipe,
)
from tests.kit.guards.mutation import ROOT, missed

TABLES = {
    "audit": audit.GUARDS,
    "clipboard": clipboard.GUARDS,
    "link": link.GUARDS,
    "pulse": pulse.GUARDS,
    "rule": rules.GUARDS,
    "transfer": transfer.GUARDS,
    "wayland": wayland.GUARDS,
    "waypipe": waypipe.GUARDS,
}


@pytest.mark.parametrize(
    "guard",
    [
        pytest.param(guard, id=f"{room}: {guard.name}")
        for room, table in TABLES.items()
        for guard in table
    ],
)
def test_the_table_names_source_that_exists_once(guard):
    assert (ROOT / guard.file).read_text().count(guard.source) == 1
    assert (ROOT / guard.test).is_file()


@pytest.mark.parametrize("room", TABLES)
def test_names_are_used_once(room):
    table = TABLES[room]
    assert len({guard.name for guard in table}) == len(table)


@pytest.mark.long
@pytest.mark.skipif(
    not os.environ.get("VITRAIL_MUTATE"),
    reason="up to an hour by itself: 'make mutate' runs it",
)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("room", TABLES)
async def test_no_guard_can_go_unnoticed(room):
    assert await missed([], TABLES[room]) == []
