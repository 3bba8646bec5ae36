"""What works directly works in a box with the settings that people get."""

from __future__ import annotations

import pytest

from tests.kit.needs import PID_NAMESPACES, needs
from tests.programs.places import desk
from tests.programs.table import PROGRAMS

pytestmark = [PID_NAMESPACES, needs("bwrap", "bubblewrap"), needs("mako", "mako-notifier")]  # fmt: skip


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


async def test_programs_of_a_day_work_in_a_box():
    await _compared([program for program in PROGRAMS if program.short])


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_each_program_of_the_table_works_in_a_box():
    await _compared(PROGRAMS)
