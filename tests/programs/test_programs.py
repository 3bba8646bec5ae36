"""What works directly works in a box with the settings that people get."""

from __future__ import annotations

import pytest

from tests.kit.needs import PID_NAMESPACES, needs
from tests.programs.places import desk
from tests.programs.table import PROGRAMS

pytestmark = [PID_NAMESPACES, needs("bwrap", "bubblewrap"), needs("mako", "mako-notifier")]  # fmt: skip


async def _compared(programs):
    """Return what works here and not in a box, and print each row's result."""
    lost = {}
    async with desk() as d:
        for program in programs:
            if program.missing:
                print(f"{program.name}: skipped, needs {program.package}")
                continue
            if why := await d.directly(program):
                print(f"{program.name}: does not work here either: {why}")
                continue
            for place in (d.in_box, d.in_record):
                if program.record_only and place == d.in_box:
                    continue
                if why := await place(program):
                    lost[program.name, place.__name__] = why
            print(f"{program.name}: compared")
    return lost


async def test_programs_of_a_day_work_in_a_box():
    short = [program for program in PROGRAMS if program.short]
    assert await _compared(short) == {}


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_each_program_of_the_table_works_in_a_box():
    assert await _compared(PROGRAMS) == {}
