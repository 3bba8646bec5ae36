"""What works directly works in a box with the settings that people get."""

from __future__ import annotations

import pytest

from tests.kit.needs import PID_NAMESPACES, needs
from tests.programs.image import is_made
from tests.programs.places import batches, desk
from tests.programs.table import PROGRAMS

pytestmark = [PID_NAMESPACES, needs("bwrap", "bubblewrap"), needs("mako", "mako-notifier")]  # fmt: skip
_AT_ONCE = 12


async def _compared(programs):
    """Compare rows; what works here works in both boxes, and something works here."""
    rows = {}
    async with desk() as d:
        for program in programs:
            row = rows[program.name] = await d.measured(program)
            print(f"{program.name}: {row}")
    here = {name: row for name, row in rows.items() if not row["directly"]}
    assert here, rows
    assert {name: row for name, row in here.items() if any(row.values())} == {}


@pytest.mark.timeout(600)
async def test_programs_of_a_day_work_in_a_box():
    await _compared([program for program in PROGRAMS if program.short])


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("first", range(0, len(PROGRAMS), _AT_ONCE))
async def test_each_program_of_the_table_works_in_a_box(first):
    await _compared(PROGRAMS[first : first + _AT_ONCE])


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not is_made(), reason="needs the image of tests.programs.image")
async def test_each_program_of_the_table_works_in_a_container():
    rows = {}
    async with desk(containers=True) as d:
        for together in batches(PROGRAMS):
            rows |= await d.contained(together)
    assert {name: why for name, why in rows.items() if why} == {}
