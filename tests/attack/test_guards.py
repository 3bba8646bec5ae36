"""Each guard of each room is there, and is missed when it is not."""

from __future__ import annotations

import os

import pytest

from tests.kit import (
    audit_guards,
    clipboard_guards,
    link_guards,
    pulse_guards,
    rule_guards,
    transfer_guards,
    wayland_guards,
    waypipe_guards,
)
from tests.kit.guards import ROOT, missed

TABLES = {
    "audit": audit_guards.GUARDS,
    "clipboard": clipboard_guards.GUARDS,
    "link": link_guards.GUARDS,
    "pulse": pulse_guards.GUARDS,
    "rule": rule_guards.GUARDS,
    "transfer": transfer_guards.GUARDS,
    "wayland": wayland_guards.GUARDS,
    "waypipe": waypipe_guards.GUARDS,
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
